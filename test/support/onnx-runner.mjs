// Child process of onnx-session.ts: runs models and answers with their outputs. It is a process of its own because
// jest's module realm and native code disagree about `instanceof Float32Array`. Plain JavaScript, so that no loader
// is needed. Sessions of models that come as bytes are made per request, those of files are kept.
import { InferenceSession, Tensor } from 'onnxruntime-node';

const kept = new Map();

process.on('message', async ({ id, model, feeds, threads }) => {
  const fromFile = typeof model === 'string';
  let session = fromFile ? kept.get(model) : undefined;
  try {
    session ??= await InferenceSession.create(model, { intraOpNumThreads: threads, executionProviders: ['cpu'] });
    if (fromFile) kept.set(model, session);
    const inputs = {};
    for (const [name, { type, data, dims }] of Object.entries(feeds)) inputs[name] = new Tensor(type, data, dims);
    const results = await session.run(inputs);
    const outputs = {};
    for (const [name, { type, data, dims }] of Object.entries(results)) outputs[name] = { type, data, dims };
    process.send({ id, outputs });
  } catch (error) {
    process.send({ id, error: String(error?.message ?? error) });
  } finally {
    if (!fromFile) await session?.release();
  }
});
process.on('disconnect', () => process.exit());
