// The thread in which an Encoder encodes long texts. It is told the directory of the tokenizer.
import { workerData } from 'node:worker_threads';
import { answerJobs } from '../jobs.js';
import { loadTokenizer } from '../text/tokenizer.js';
import type { EncodeJob } from './encoder.js';

const tokenizer = (await loadTokenizer(workerData as string))!;

answerJobs<EncodeJob, Uint32Array<ArrayBuffer>>(
  ({ text, addSpecialTokens }) => Uint32Array.from(tokenizer.encode(text, { addSpecialTokens })),
  (ids) => [ids.buffer],
);
