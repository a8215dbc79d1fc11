// Child process of onnx-session.ts: creates a session per request and answers with its outputs. It is a process of its
// own because jest's module realm and native code disagree about `instanceof Float32Array`. Plain JavaScript, so that
// no loader is needed.
import { InferenceSession, Tensor } from 'onnxruntime-node';

process.on('message', async ({ id, model, feeds, threads }) => {
  let session;
  try {
    session = await InferenceSession.create(model, { intraOpNumThreads: threads, executionProviders: ['cpu'] });
    const inputs = {};
    for (const [name, { type, data, dims }] of Object.entries(feeds)) inputs[name] = new Tensor(type, data, dims);
    const results = await session.run(inputs);
    const outputs = {};
    for (const [name, { type, data, dims }] of Object.entries(results)) outputs[name] = { type, data, dims };
    process.send({ id, outputs });
  } catch (error) {
    process.send({ id, error: String(error?.message ?? error) });
  } finally {
    await session?.release();
  }
});
process.on('disconnect', () => process.exit());
