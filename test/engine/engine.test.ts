// Whatever else is going on, every request gets the text that it gets alone, and the pool ends as it began.
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { Engine, loadModel, type Request, type RequestOptions, type TextModel } from '../../lib/index.js';
import { random, testDevice } from '../support/device.js';
import { alone, begun, expectFree, tinyModel } from '../support/engine.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';
import { seeds } from '../support/operands.js';

const device = testDevice();
const root = temporaryDirectory();
const onCpu = device.name === 'cpu';
let reference: TextModel;
beforeAll(async () => {
  reference = await tinyModel(root, { device });
});
afterAll(() => reference.dispose());

interface Job {
  prompt: number[];
  options: RequestOptions;
  /** Steps of the engine before it comes; fewer where there is nothing else to do. */
  after: number;
  /** Events after which its reader leaves; undefined: it stays. */
  leaves: number | undefined;
}

const job: fc.Arbitrary<Job> = fc.record({
  // Prompts of one origin share their beginnings.
  prompt: fc.record({ origin: fc.integer({ min: 0, max: 1 }), shared: fc.nat(140), own: fc.array(fc.nat(45), { maxLength: 40 }) }).map(({ origin, shared, own }) => {
    const uniform = random(origin);
    return [...Array.from({ length: shared }, () => Math.floor(uniform() * 46)), ...own, 1];
  }),
  options: fc.record(
    {
      maxTokens: fc.integer({ min: 1, max: 50 }),
      threshold: fc.constantFrom(0, 0.5),
      ignoreEos: fc.boolean(),
      temperature: fc.constantFrom(0, 0, 1),
      seed: fc.nat(1000),
      repetitionPenalty: fc.constantFrom(1, 1, 1.3),
      frequencyPenalty: fc.constantFrom(0, 0, 0.5),
      n: fc.constantFrom(1, 1, 1, 2, 3),
      priority: fc.integer({ min: -1, max: 1 }),
      client: fc.constantFrom('a', 'b'),
      logprobs: fc.constantFrom(0, 2),
      kept: fc.boolean(),
    },
    { requiredKeys: ['maxTokens', 'ignoreEos'] },
  ) as fc.Arbitrary<RequestOptions>,
  after: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 40 })),
  leaves: fc.oneof({ weight: 3, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: fc.nat(10) }),
});

/** The tokens of its texts; undefined where its reader leaves. */
async function outcome(request: Request, { leaves }: Job): Promise<number[][] | undefined> {
  if (leaves === undefined) return (await request.result).choices.map(({ tokens }) => tokens.map(({ id }) => id));
  let events = 0;
  for await (const _ of request) if (events++ >= leaves) break;
  return undefined;
}

test('random requests, lengths, priorities and leavers in pools of all sizes', async () => {
  const given = {
    jobs: fc.array(job, { minLength: 1, maxLength: 12 }),
    pages: fc.integer({ min: 20, max: 120 }),
    maxSequences: fc.integer({ min: 3, max: 8 }),
    reuse: fc.constantFrom('exact' as const, 'none' as const),
    seed: seeds,
  };
  let [preemptions, hits] = [0, 0];
  const property = fc.asyncProperty(fc.record(given), async ({ jobs, pages, maxSequences, reuse }) => {
    const expected = [];
    for (const { prompt, options } of jobs) expected.push(await alone(reference, prompt, options));
    const model = await tinyModel(root, { device, pages });
    const later = [...jobs].sort((a, b) => a.after - b.after);
    const outcomes = new Map<Job, Promise<number[][] | undefined>>();
    let [steps, ended] = [0, 0];
    const come = () => {
      while (later.length > 0 && (later[0]!.after <= steps || ended === outcomes.size)) {
        const next = later.shift()!;
        outcomes.set(next, outcome(engine.generate(next.prompt, next.options), next));
      }
    };
    const engine = new Engine(model, {
      maxSequences, reuse,
      onStep() {
        steps++;
        come();
      },
      onRequest() {
        ended++;
        come();
      },
    });
    come();
    while (later.length > 0) await Promise.all(outcomes.values());
    for (const [i, each] of jobs.entries()) {
      const texts = await outcomes.get(each);
      if (texts) expect(texts).toEqual(expected[i]);
    }
    const stats = engine.stats();
    preemptions += stats.preemptions.saved + stats.preemptions.dropped;
    hits += stats.prefixes.hits;
    await engine.close();
    await expectFree(model);
    model.dispose();
  });
  await fc.assert(property, { numRuns: 25, seed: 7 });
  // The runs have been through what they are to prove.
  expect(preemptions).toBeGreaterThan(0);
  expect(hits).toBeGreaterThan(0);
});

test('the golden model writes the same alone and among others, to the bit', async () => {
  const model = await loadModel(MODEL_DIR, { device, kvMemory: 1 << 26 });
  const sample = readFileSync('models/sample.py', 'utf8');
  const prompts = [0, 200, 450, 700, 800].map((start, i) => sample.slice(start, start + 40 + i * 170));
  const single = [];
  for (const prompt of prompts) single.push(await model.generate(prompt, { maxTokens: 30, stop: '\n\n' }).text());
  await using engine = new Engine(model, { reuse: 'exact' });
  const texts = await Promise.all(prompts.map((prompt) => engine.generate(prompt, { maxTokens: 30, stop: '\n\n' }).text()));
  expect(texts).toEqual(single);
  // And its log-probabilities are those that it scores the text with.
  const [choice] = (await engine.generate(prompts[1]!, { maxTokens: 30, logprobs: 3 }).result).choices;
  const ids = [...model.encode(prompts[1]!), ...choice!.tokens.map(({ id }) => id)];
  const sequence = await model.createSequence();
  const scores = await model.score(sequence, ids);
  await sequence.dispose();
  for (const [i, { id, logprob, top }] of choice!.tokens.entries()) {
    expect(logprob).toBeCloseTo(scores[ids.length - choice!.tokens.length + i]!, 1);
    expect(top).toHaveLength(3);
    expect(top![0]).toEqual({ id, logprob }); // greedy
  }
  await engine.close();
  model.dispose();
});

test('log-probabilities do not depend on the company, to the bit', async () => {
  const run = async (others: number) => {
    await using engine = new Engine(reference, { reuse: 'none' });
    const uniform = random(5);
    const company = Array.from({ length: others }, () => engine.generate(Array.from({ length: 90 }, () => Math.floor(uniform() * 46)), { maxTokens: 60, ignoreEos: true }));
    await Promise.all(company.map(begun));
    const { choices } = await engine.generate([1, 2, 3, 4, 5], { maxTokens: 40, ignoreEos: true, logprobs: 5, n: 2, temperature: 1 }).result;
    await Promise.all(company.map(({ result }) => result));
    return choices.map(({ tokens }) => tokens);
  };
  const [single, crowd] = [await run(0), await run(5)];
  expect(single[0]).not.toEqual(single[1]);
  if (onCpu) expect(crowd).toEqual(single);
  else expect(crowd.flat().map(({ id }) => id)).toEqual(single.flat().map(({ id }) => id));
});

test('log-probabilities are those of the model', async () => {
  await using engine = new Engine(reference);
  const prompt = [3, 1, 4, 1, 5, 9, 2, 6];
  const { choices, usage } = await engine.generate(prompt, { maxTokens: 60, ignoreEos: true, logprobs: 2, temperature: 1.5, seed: 3 }).result;
  expect(usage).toEqual({ promptTokens: 8, cachedTokens: 0, completionTokens: 60 });
  const ids = [...prompt, ...choices[0]!.tokens.map(({ id }) => id)];
  const sequence = await reference.createSequence();
  const scores: number[] = [];
  // One token at a time, as they were written.
  await reference.prefill(sequence, prompt.slice(0, -1));
  for (let i = prompt.length - 1; i + 1 < ids.length; i++) {
    const [logits] = await reference.step([{ sequence, ids: [ids[i]!] }]);
    const normalizer = Math.log(logits!.reduce((sum, logit) => sum + Math.exp(logit), 0));
    scores.push(logits![ids[i + 1]!]! - normalizer);
  }
  await sequence.dispose();
  for (const [i, { logprob }] of choices[0]!.tokens.entries()) expect(logprob).toBeCloseTo(scores[i]!, 5);
});
