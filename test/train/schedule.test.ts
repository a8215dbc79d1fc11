import fc from 'fast-check';
import { planStep, type ScheduleOptions, softSteps } from '../../lib/train/schedule.js';

const options = (changes: Partial<ScheduleOptions> = {}): ScheduleOptions => ({
  steps: 1000, learningRate: 3e-3, warmupSteps: 0, decay: 'cosine', learningRateFloor: 0.05, dense: false, softShare: 0.75, annealSteps: 500, ...changes,
});

test('the cosine without warm-up is that of the reference', () => {
  // peak · (0.05 + 0.95 · 0.5 · (1 + cos(π i / n))), worked out by hand where the cosine is a round number
  const table: [step: number, rate: number][] = [[0, 3e-3], [250, 3e-3 * (0.05 + 0.475 * (1 + Math.SQRT1_2))], [500, 3e-3 * 0.525], [750, 3e-3 * (0.05 + 0.475 * (1 - Math.SQRT1_2))]];
  for (const [step, rate] of table) expect(planStep(step, options()).learningRate).toBeCloseTo(rate, 12);
  expect(planStep(999, options()).learningRate).toBeCloseTo(3e-3 * 0.05, 6);
});

test('warm-up rises in equal steps to the peak, and the cosine begins there', () => {
  const rates = Array.from({ length: 6 }, (_, step) => planStep(step, options({ steps: 14, warmupSteps: 4 })).learningRate / 3e-3);
  expect(rates.slice(0, 5)).toEqual([0.25, 0.5, 0.75, 1, 1].map((x) => expect.closeTo(x, 12)));
  expect(rates[5]).toBeLessThan(1);
  expect(planStep(9, options({ steps: 14, warmupSteps: 4 })).learningRate / 3e-3).toBeCloseTo(0.525, 12); // half way
});

test('a constant rate stays at the peak', () => {
  expect(planStep(900, options({ decay: 'constant' })).learningRate).toBe(3e-3);
});

test('three quarters soft, then alpha rises over 500 steps or half the rest', () => {
  const at = (step: number, changes?: Partial<ScheduleOptions>) => {
    const { mode, alpha, trainPredictor } = planStep(step, options(changes));
    return [mode, alpha, trainPredictor];
  };
  expect(at(749)).toEqual(['soft', 0, true]);
  expect(at(750)).toEqual(['annealed', 0, false]);
  expect(at(800)).toEqual(['annealed', 50 / 125, false]); // half of 250 steps
  expect(at(875)).toEqual(['annealed', 1, false]);
  expect(at(7750, { steps: 10_000 })).toEqual(['annealed', 250 / 500, false]);
  expect(at(0, { dense: true })).toEqual(['dense', 0, false]);
  expect(softSteps(options({ steps: 10, softShare: 0.75 }))).toBe(7);
});

test('every plan is sound, whatever the options', () => {
  const anyOptions = fc.record({
    steps: fc.integer({ min: 1, max: 5000 }), learningRate: fc.double({ min: 1e-8, max: 1, noNaN: true }), warmupSteps: fc.nat(6000),
    decay: fc.constantFrom('cosine' as const, 'constant' as const), learningRateFloor: fc.double({ min: 0, max: 1, noNaN: true }),
    dense: fc.boolean(), softShare: fc.double({ min: 0, max: 1, noNaN: true }), annealSteps: fc.integer({ min: 1, max: 10_000 }),
  });
  fc.assert(fc.property(anyOptions, fc.nat(), (given, draw) => {
    const step = draw % given.steps;
    const plan = planStep(step, given);
    expect(plan.learningRate).toBeGreaterThanOrEqual(0);
    expect(plan.learningRate).toBeLessThanOrEqual(given.learningRate * (1 + 1e-12));
    expect(plan.alpha >= 0 && plan.alpha <= 1).toBe(true);
    expect(plan.trainPredictor).toBe(plan.mode === 'soft');
    if (step > 0 && !given.dense) expect(plan.alpha).toBeGreaterThanOrEqual(planStep(step - 1, given).alpha);
  }));
});
