// What a model took, and what was made with it, is given back when it is disposed: by then, not by the garbage collector.
import { Engine, type TextModel } from '../../lib/index.js';
import { liveAllocations } from '../../lib/ops.js';
import { collectGarbage, testDevice } from '../support/device.js';
import { temporaryDirectory } from '../support/files.js';
import { chatModel } from '../support/server.js';

const device = testDevice();
const root = temporaryDirectory();
const prompt = 'the quick brown fox jumps over the lazy dog, again and again and again';

const uses: [string, (model: TextModel) => Promise<unknown>][] = [
  ['steps and prefills of many sizes', async (model) => {
    const sequence = await model.createSequence();
    const ids = model.encode(prompt);
    for (let count = 1; count < 40; count += 5) await model.step([{ sequence, ids: ids.slice(0, count) }]);
    await model.prefill(sequence, [...ids, ...ids]);
    await model.stepAll(sequence, ids); // more than a chunk
    await model.score(sequence, ids);
    await model.utilities(ids);
    await model.gatedLogits(ids);
  }],
  ['a decoder', async (model) => {
    const sequences = [await model.createSequence(), await model.createSequence()];
    using decoder = model.createDecoder(sequences.map((sequence) => ({ sequence, next: 97, sampling: { repetitionPenalty: 1.1 }, prompt: [97, 98] })));
    for (let i = 0; i < 5; i++) await decoder.step();
    await decoder.logits();
  }],
  ['generation, in a session and within a constraint', async (model) => {
    const session = model.createSession();
    const constraint = await model.constrain({ regex: '[a-z ]{1,20}' });
    await model.generate(prompt, { session, maxTokens: 5 }).text();
    await model.generate(prompt, { constraint, maxTokens: 5, temperature: 1 }).text();
  }],
  ['an engine', async (model) => {
    await using engine = new Engine(model);
    const constraint = await model.constrain({ regex: '[a-z ]{1,20}' });
    const options = [{}, { repetitionPenalty: 1.2 }, { constraint }, { n: 2, temperature: 1, logprobs: 2 }];
    await Promise.all(options.map((more, i) => engine.generate(model.encode(prompt.slice(0, 10 + 13 * i)), { maxTokens: 12, ...more }).result));
  }],
];

test.each(uses)('%s', async (_, use) => {
  await device.synchronize();
  await collectGarbage();
  const before = liveAllocations();
  const model = await chatModel(root, { device });
  expect(liveAllocations().bytes).toBeGreaterThan(before.bytes);
  await use(model);
  model.dispose();
  await device.synchronize();
  const after = liveAllocations();
  // What others have left behind may be collected meanwhile.
  expect(after.tensors).toBeLessThanOrEqual(before.tensors);
  expect(after.bytes).toBeLessThanOrEqual(before.bytes);
  expect(after.caches).toBeLessThanOrEqual(before.caches);
});
