// Many clients at random times: no error, no token lost or mixed up, and memory is as it was.
import { load } from '../../bench/load.js';
import { loadModel } from '../../lib/index.js';
import { random, testDevice } from '../support/device.js';
import { expectFree } from '../support/engine.js';
import { MODEL_DIR } from '../support/golden.js';
import { startServer } from '../support/server.js';

test('each answer is the text that its question gets alone', async () => {
  // A pool in which the texts do not all have room.
  const model = await loadModel(MODEL_DIR, { device: testDevice(), kvMemory: 16 << 20 });
  const running = await startServer(model, { engine: { maxSequences: 12, reuse: 'exact' } });
  const uniform = random(11);
  const source = await model.generate('import os\n', { maxTokens: 900, temperature: 0.7, seed: 2, ignoreEos: true }).text();
  const questions = [];
  for (let i = 0; i < 16; i++) {
    const prompt = source.slice(0, 20 + Math.floor(uniform() * (i % 4 === 0 ? 800 : 200)));
    const [maxTokens, temperature, seed, threshold] = [5 + Math.floor(uniform() * 60), i % 2, i, i % 3 === 0 ? 0 : 0.5];
    const text = await model.generate(prompt, { maxTokens, temperature, seed, threshold, ignoreEos: true }).text();
    questions.push({ fields: { model: running.server.name, prompt, max_tokens: maxTokens, temperature, seed, threshold, ignore_eos: true }, text });
  }
  let left = 200;
  const { answers, errors, tokens } = await load({ url: running.url, clients: 24, more: () => left-- > 0, pauseMilliseconds: 50, questions, uniform });
  expect(errors).toEqual([]);
  expect(answers).toBe(200);
  const { requests, tokens: counted } = running.server.engine.stats();
  expect(requests).toEqual({ waiting: 0, finished: answers, failed: 0, refused: 0 });
  expect(counted.written).toBe(tokens);
  await running.server.close();
  await expectFree(model);
  model.dispose();
});
