// One rank of a run, as a process: its options as JSON in the first argument, its place in the environment. Gradients go
// through sockets, unless SPKV_TEST_REDUCTION says nccl. Writes the events of the run and its result to stdout, an error
// as { error: { code, message } }. After an event it waits for a byte on stdin: it has come no further when the event is
// heard of, however late that is.
import { readSync } from 'node:fs';
import { train, trainWith, type TrainEvent } from '../../lib/train/train.js';
import type { TrainOptions } from '../../lib/train/run-file.js';
import { SpkvError } from '../../lib/errors.js';
import { openSockets } from './socket-reduction.js';

const options = JSON.parse(process.argv[2]!) as TrainOptions;
const controller = new AbortController();
process.on('SIGINT', () => controller.abort(new Error('stopped')));
const write = (value: object) => process.stdout.write(`${JSON.stringify(value)}\n`);
const tell = (event: TrainEvent) => {
  write(event);
  readSync(0, new Uint8Array(1));
};
const full = { ...options, signal: controller.signal, onProgress: tell };
try {
  write({ result: await (process.env['SPKV_TEST_REDUCTION'] === 'nccl' ? train(full) : trainWith(full, openSockets)) });
} catch (error) {
  const { message } = error as Error;
  write({ error: { code: error instanceof SpkvError ? error.code : 'other', message } });
  process.exitCode = 1;
}
