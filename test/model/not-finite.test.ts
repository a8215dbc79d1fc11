// What is no number ends a step with a typed error, and the sequences are where their lengths say.
import { type Sequence, type SpkvError, type TextModel } from '../../lib/index.js';
import type { LlamaNetwork } from '../../lib/model/llama-network.js';
import type { Tensor } from '../../lib/ops.js';
import { testDevice } from '../support/device.js';
import { tinyModel } from '../support/engine.js';
import { errorOf, expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { chatModel } from '../support/server.js';

const POISON = 46;
const device = testDevice();
const root = temporaryDirectory();
const tokens = (count: number, first = 1) => Array.from({ length: count }, (_, i) => first + ((5 * i) % 40));
let model: TextModel;
/** The weights of the last norm, before the logits. */
let norm: Tensor;
let healthy: Float32Array;
beforeAll(async () => {
  model = await tinyModel(root, { device, cacheDtype: 'f32' }, {}, 3, POISON);
  const { weights } = (model.network as LlamaNetwork).llama;
  healthy = await weights.finalNorm.readFloats();
  weights.finalNorm.dispose();
  norm = weights.finalNorm = device.from(healthy);
});
afterAll(() => model.dispose());

/** A sequence that has read `ids`, and no more: what it does next is what one does that has read nothing else. */
async function expectRead(sequence: Sequence, ids: readonly number[]): Promise<void> {
  expect([sequence.length, (await sequence.stats()).length]).toEqual([ids.length, ids.length]);
  const fresh = await model.createSequence();
  if (ids.length > 0) await model.prefill(fresh, ids);
  const [[after], [expected]] = [await model.step([{ sequence, ids: [7] }]), await model.step([{ sequence: fresh, ids: [7] }])];
  expect(after!.every(Number.isFinite)).toBe(true);
  for (const [i, logit] of after!.entries()) expect(logit).toBeCloseTo(expected![i]!, 4);
  await Promise.all([sequence.dispose(), fresh.dispose()]);
}

test('a poisoned token is named by sequence and position, and the step changes nothing', async () => {
  const [a, b] = [await model.createSequence(), await model.createSequence()];
  await model.prefill(a, tokens(10));
  const inputs = [{ sequence: b, ids: tokens(3) }, { sequence: a, ids: [1, POISON, 2] }];
  await expectError(() => model.step(inputs), 'NON_FINITE', 'Layer 0', '(positions 10 to 12 of inputs[1].sequence)');
  await expectError(() => model.stepAll(a, [1, POISON, 2]), 'NON_FINITE', 'Layer 0', '(positions 10 to 12 of the sequence)');
  await expectRead(a, tokens(10));
  await expectRead(b, []);
});

test('a poisoned text is not scored: the error names the position, and the length what has been read before', async () => {
  const sequence = await model.createSequence();
  const ids = [...tokens(40), POISON, ...tokens(5)]; // read 32 at a time
  await expectError(() => model.score(sequence, ids), 'NON_FINITE', 'Layer 0', '(positions 32 to 45 of the sequence)');
  await expectRead(sequence, ids.slice(0, 32));
});

describe('a model whose logits are not finite', () => {
  beforeEach(() => norm.write(healthy.map((x, i) => (i === 5 ? NaN : x))));
  afterEach(() => norm.write(healthy));

  test('does no step', async () => {
    const [a, b] = [await model.createSequence(), await model.createSequence()];
    const refused = [
      [() => model.step([{ sequence: a, ids: tokens(4) }, { sequence: b, ids: [1] }]), '(positions 0 to 3 of inputs[0].sequence)'],
      [() => model.step([{ sequence: a, ids: [1] }]), '(position 0 of the sequence)'],
      [() => model.stepAll(a, tokens(4)), '(positions 0 to 3 of the sequence)'],
      [() => model.prefill(a, tokens(4)), '(positions 0 to 3 of the sequence)'],
      [() => model.score(a, tokens(4)), '(positions 0 to 3 of the sequence)'],
    ] as const;
    for (const [run, where] of refused) await expectError(run, 'NON_FINITE', 'Expected finite logits', 'logits[0, 0]', where);
    norm.write(healthy);
    await expectRead(a, []);
    await expectRead(b, []);
  });

  test('decodes nothing, and goes on when it is well again', async () => {
    const sequence = await model.createSequence();
    using decoder = model.createDecoder([{ sequence, next: 3 }]);
    for (let i = 0; i < 2; i++) await expectError(() => decoder.step(), 'NON_FINITE', 'logits[0, 0]');
    norm.write(healthy);
    expect(sequence.length).toBe(0);
    await decoder.step();
    await expectRead(sequence, [3]);
  });
});

describe('penalties that make a logit infinite', () => {
  const sampling = { repetitionPenalty: 3e38 };

  test('stop the decoder after its tokens were read, which the lengths say', async () => {
    const [a, b] = [await model.createSequence(), await model.createSequence()];
    await model.prefill(a, tokens(5));
    const rows = [{ sequence: a, next: 3, sampling, prompt: tokens(40) }, { sequence: b, next: 4 }];
    using decoder = model.createDecoder(rows);
    const error = await errorOf(() => decoder.step());
    expect(error).toMatchObject({ code: 'NON_FINITE', message: expect.stringContaining('penalties of row 0') } satisfies Partial<SpkvError>);
    expect(await errorOf(() => decoder.step())).toBe(error);
    await expectRead(a, [...tokens(5), 3]);
    await expectRead(b, [4]);
  });

  test('leave a session that goes on as if it had read all at once', async () => {
    using chat = await chatModel(root, { device });
    const session = chat.createSession();
    const prompt = chat.encode('the quick brown fox jumps over the lazy dog, 0123456789');
    await expectError(() => chat.generate(prompt, { session, ...sampling }).text(), 'NON_FINITE', 'penalties');
    const next = [...prompt, ...prompt];
    const generation = chat.generate(next, { session, maxTokens: 12, ignoreEos: true });
    const text = await generation.text();
    expect((await generation.result).usage.cachedTokens).toBe(prompt.length);
    expect(text).toBe(await chat.generate(next, { maxTokens: 12, ignoreEos: true }).text());
    await session.dispose();
  });
});
