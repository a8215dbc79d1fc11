import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export interface OnnxTensor {
  readonly type: 'float32' | 'float16' | 'int64' | 'int32' | 'bool';
  readonly data: Float32Array | Uint16Array | BigInt64Array | Int32Array | Uint8Array;
  readonly dims: readonly number[];
}

interface Answer {
  id: number;
  outputs?: Record<string, OnnxTensor>;
  error?: string;
}

interface Pending {
  resolve(outputs: Record<string, OnnxTensor>): void;
  reject(error: Error): void;
}

const pending = new Map<number, Pending>();
let child: ChildProcess | undefined;
let requests = 0;

/**
 * Runs a model, bytes or the path of a file, with onnxruntime on the CPU, in a helper process that is started on first
 * use, kept for later calls, and does not hold the event loop while idle. Outputs of type float32 are arrays of the
 * caller's realm.
 */
export function runOnnx(
  model: Uint8Array | string,
  feeds: Record<string, OnnxTensor>,
  { threads = 1 } = {},
): Promise<Record<string, OnnxTensor>> {
  const process = (child ??= start());
  const id = requests++;
  return new Promise((resolve, reject) => {
    pending.set(id, { resolve, reject });
    process.ref();
    process.channel?.ref();
    process.send({ id, model, feeds, threads }, (error) => {
      if (error) settle({ id, error: `The onnxruntime helper cannot be reached: ${error.message}` });
    });
  });
}

/** Ends the helper process, for callers that do not want to wait for their own exit to end it. */
export function closeOnnx(): void {
  const ended = child;
  child = undefined;
  ended?.disconnect();
  for (const id of pending.keys()) settle({ id, error: 'The onnxruntime helper was closed' });
}

function start(): ChildProcess {
  const runner = fileURLToPath(new URL('./onnx-runner.mjs', import.meta.url));
  const started = fork(runner, { serialization: 'advanced', execArgv: [], stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  started.on('message', (answer) => settle(answer as Answer));
  started.on('exit', (code, signal) => {
    if (child !== started) return;
    child = undefined;
    for (const id of pending.keys()) settle({ id, error: `The onnxruntime helper ended (${signal ?? `exit code ${code}`})` });
  });
  return started;
}

function settle({ id, outputs, error }: Answer): void {
  const request = pending.get(id);
  if (!request) return;
  pending.delete(id);
  if (pending.size === 0) {
    child?.unref();
    child?.channel?.unref();
  }
  if (outputs) request.resolve(Object.fromEntries(Object.entries(outputs).map(([name, value]) => [name, localTensor(value)])));
  else request.reject(new Error(error));
}

/** Deserialised arrays belong to the outer realm under jest; a copy belongs to this one. */
function localTensor(tensor: OnnxTensor): OnnxTensor {
  return tensor.type === 'float32' ? { ...tensor, data: new Float32Array(tensor.data as Float32Array) } : tensor;
}
