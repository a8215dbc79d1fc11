// A thread of test/jobs.test.ts: does what its jobs name.
import { workerData } from 'node:worker_threads';
import { register } from 'tsx/esm/api';

register();
const { answerJobs } = await import('../../lib/jobs.ts');
const { SpkvError } = await import('../../lib/errors.ts');

const actions = {
  setup: () => workerData,
  double: (values) => values.map((value) => 2 * value),
  fail: () => {
    throw new TypeError('broken');
  },
  refuse: () => {
    throw new SpkvError('OUT_OF_RANGE', 'too far');
  },
  // An answer that cannot be sent: an error of the thread, not of the job.
  crash: () => ({
    get value() {
      throw new Error('lost its way');
    },
  }),
  exit: () => process.exit(3),
  sleep: () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0),
};

answerJobs(({ action, value }) => actions[action](value), (answer) => (answer instanceof Float64Array ? [answer.buffer] : []));
