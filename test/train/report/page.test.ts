import type { LogRecord, StepRecord, ValidationRecord } from '../../../lib/train/log.js';
import { reportPage } from '../../../lib/train/report/page.js';

const STEPS = 40;

const step = (i: number, changes: Partial<StepRecord> = {}): StepRecord => ({
  kind: 'step', step: i, tokens: 100 * i, mode: i <= 30 ? 'soft' : 'annealed', alpha: i <= 30 ? 0 : (i - 30) / 10, learningRate: 1e-3 / i, loss: 5 / i,
  density: 1 - i / 80, gradientNorm: 1, seconds: 0.1, tokensPerSecond: 1000, utilisation: 0.3, ...changes,
});
const validation = (i: number): ValidationRecord => ({
  kind: 'validation', step: i, tokens: 100 * i, dense: 5 / i, soft: 5.1 / i, hard: [{ threshold: 0.5, loss: 5.2 / i, density: 0.42 }],
  densities: [[0.125, 1], [0, 0.5]], histograms: [[[0.875, 0.125], [0, 1]], [[1, 0], [0.5, 0.5]]],
});
const start: LogRecord = {
  kind: 'start', step: 0, steps: STEPS, time: '2026-01-01T00:00:00.000Z', ranks: 1, device: 'a <fast> device', settings: { learningRate: 1e-3, packing: 'documents' },
  parameters: 1234, trainingTokens: 5678, validationTokens: 90, peakFlops: 1e12,
};
const records: LogRecord[] = [start, ...Array.from({ length: STEPS }, (_, i) => step(i + 1)), validation(20), validation(40)];

/** The section under a heading. */
const section = (page: string, title: string) => page.split('<h2>').find((part) => part.startsWith(title));

test('shows every series in its section', () => {
  const page = reportPage(records, 'Training of run & co');
  expect(page).toContain('<title>Training of run &amp; co</title>');
  const loss = section(page, 'Loss')!;
  for (const name of ['training', 'validation, gates open', 'validation, soft', 'validation, τ 0.5']) expect(loss).toContain(name);
  expect(loss.match(/<circle/g)).toHaveLength(6); // two validations of three kinds
  expect(loss).toContain('validation, soft at 40: 0.1275');
  expect(section(page, 'Density: ')!).toContain('validation, τ 0.5 at 20: 0.42');
  for (const title of ['Learning rate', 'Alpha', 'Norm of the gradient', 'Tokens per second']) expect(section(page, title)).toContain('<path');
  expect(section(page, 'Settings')).toContain('<th>learningRate</th><td>0.001</td>');
});

test('shows densities over time, and the last utilities, of every head', () => {
  const page = reportPage(records, 'run');
  const map = section(page, 'Density by layer')!;
  expect(map.match(/<rect/g)).toHaveLength(4 * 2);
  expect(map).toContain('layer 0, 0, step 20: 12.5 %');
  expect(map).toContain('layer 1, 1, step 40: 50.0 %');
  const utilities = section(page, 'Utilities')!;
  expect(utilities.match(/<rect/g)).toHaveLength(4 * 2);
  expect(utilities).toContain('layer 0, 0, utility from 0.5: 12.5 %');
});

test('is one file that is safe to open: no scripts, no network, nothing unescaped', () => {
  const page = reportPage(records, '<script>alert(1)</script>');
  expect(page).not.toMatch(/<script|https?:|<fast>|src=|NaN|undefined/);
  expect(page).toContain('a &lt;fast&gt; device');
});

test('long runs become lines and maps of bounded size', () => {
  const long: LogRecord[] = [start, ...Array.from({ length: 30_000 }, (_, i) => step(i + 1)), ...Array.from({ length: 300 }, (_, i) => validation(100 * (i + 1)))];
  const page = reportPage(long, 'run');
  expect(page.length).toBeLessThan(400_000);
  const map = section(page, 'Density by layer')!;
  expect(map.match(/<rect/g)!.length).toBeLessThanOrEqual(4 * 60);
  expect(map).toContain('step 30000:'); // the last is among those shown
});

test('a dense run has no gates to show, and a run that has only begun still has a report', () => {
  const dense = reportPage([start, step(1, { mode: 'dense', density: null }), { ...validation(1), soft: null, hard: [], densities: null, histograms: null }], 'run');
  for (const title of ['Density', 'Alpha', 'Utilities']) expect(section(dense, title)).toBeUndefined();
  expect(section(dense, 'Loss')).toContain('validation, gates open');
  expect(reportPage([], 'run')).toContain('<h1>run</h1>');
});
