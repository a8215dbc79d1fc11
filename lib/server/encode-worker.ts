// The thread in which an Encoder encodes long texts. It is told the directory of the tokenizer.
import { parentPort, workerData } from 'node:worker_threads';
import { loadTokenizer } from '../text/tokenizer.js';
import type { EncodeAnswer, EncodeJob } from './encoder.js';

const tokenizer = (await loadTokenizer(workerData as string))!;

parentPort!.on('message', ({ number, text, addSpecialTokens }: EncodeJob) => {
  try {
    const ids = Uint32Array.from(tokenizer.encode(text, { addSpecialTokens }));
    parentPort!.postMessage({ number, ids } satisfies EncodeAnswer, [ids.buffer]);
  } catch (error) {
    parentPort!.postMessage({ number, error: (error as Error).message } satisfies EncodeAnswer);
  }
});
