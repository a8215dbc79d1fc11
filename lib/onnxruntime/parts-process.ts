// The process that runs the parts of a graph with onnxruntime-node. Requests and answers go over descriptor 3, as
// native/onnxruntime/channel.h describes them; its end is the end of the process.
import { readSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import type * as onnxruntimeNode from 'onnxruntime-node';
import type { InferenceSession, Tensor } from 'onnxruntime-node';

type Onnxruntime = typeof onnxruntimeNode;

export interface PartsSetup {
  /** Directory of onnxruntime-node. */
  runtime: string;
  /** Paths of the parts. */
  parts: string[];
  /** Of onnxruntime's own pool; 0: its own choice. */
  threads: number;
  /** Numbers in a row of the residual stream, and of query and context. */
  widths: { residual: number; query: number };
  dense: boolean;
}

const CHANNEL = 3;
const REQUEST_BYTES = 24;
/** What parts can be given. */
const INPUTS = {
  first: ['input_ids', 'position_ids'],
  middle: ['context', 'residual', 'position_ids'],
  last: ['context', 'residual', 'logit_rows'],
};

/** The next `bytes` bytes; undefined where the other side has gone. */
function receive(bytes: number): Uint8Array<ArrayBuffer> | undefined {
  const data = new Uint8Array(bytes);
  for (let start = 0; start < bytes; ) {
    const got = readSync(CHANNEL, data, start, bytes - start, null);
    if (got === 0) return undefined;
    start += got;
  }
  return data;
}

function send(data: Uint8Array): void {
  for (let start = 0; start < data.length; ) start += writeSync(CHANNEL, data, start);
}

function answer(failed: boolean, ...content: Uint8Array[]): void {
  const head = new DataView(new ArrayBuffer(16));
  const bytes = content.reduce((sum, { byteLength }) => sum + byteLength, 0);
  head.setUint32(0, failed ? 1 : 0, true);
  head.setBigUint64(8, BigInt(bytes), true);
  send(new Uint8Array(head.buffer));
  for (const part of content) send(part);
}

function fail(error: unknown): void {
  answer(true, new TextEncoder().encode(`onnxruntime: ${(error as Error).message ?? String(error)}`));
}

/** Reads the inputs of a part one after another. */
class Inputs {
  #offset = 0;

  constructor(
    private readonly onnxruntime: Onnxruntime,
    private readonly data: Uint8Array<ArrayBuffer>,
  ) {}

  floats(rows: number, width: number): Tensor {
    const values = new Float32Array(this.data.buffer, this.#take(4 * rows * width), rows * width);
    return new this.onnxruntime.Tensor('float32', values, [rows, width]);
  }

  ints(count: number): Tensor {
    const values = new Int32Array(this.data.buffer, this.#take(4 * count), count);
    return new this.onnxruntime.Tensor('int64', BigInt64Array.from(values, BigInt), [count]);
  }

  #take(bytes: number): number {
    this.#offset += bytes;
    return this.#offset - bytes;
  }
}

class Parts {
  private constructor(
    private readonly onnxruntime: Onnxruntime,
    private readonly setup: PartsSetup,
    private readonly sessions: InferenceSession[],
  ) {}

  static async load(setup: PartsSetup): Promise<Parts> {
    const onnxruntime = createRequire(import.meta.url)(setup.runtime) as Onnxruntime;
    const sessions: InferenceSession[] = [];
    for (const path of setup.parts) {
      // Threads that wait by spinning would take the cores from those that compute attention.
      const session = await onnxruntime.InferenceSession.create(path, {
        intraOpNumThreads: setup.threads,
        executionProviders: ['cpu'],
        logSeverityLevel: 4,
        extra: { session: { intra_op: { allow_spinning: '0' } } },
      });
      const known = INPUTS[sessions.length === 0 ? 'first' : sessions.length + 1 < setup.parts.length ? 'middle' : 'last'];
      const unknown = session.inputNames.find((name) => !known.includes(name));
      if (unknown !== undefined) throw new Error(`${path} has an input "${unknown}" that spkv does not know`);
      sessions.push(session);
    }
    return new Parts(onnxruntime, setup, sessions);
  }

  async run(part: number, tokens: number, rows: number, data: Uint8Array<ArrayBuffer>): Promise<Uint8Array[]> {
    const session = this.sessions[part]!;
    const last = part === this.sessions.length - 1;
    const inputs = new Inputs(this.onnxruntime, data);
    const { residual, query } = this.setup.widths;
    const all: Record<string, Tensor> =
      part === 0
        ? { input_ids: inputs.ints(tokens), position_ids: inputs.ints(tokens) }
        : {
            context: inputs.floats(tokens, query),
            residual: inputs.floats(tokens, residual),
            ...(last ? { logit_rows: inputs.ints(rows) } : { position_ids: inputs.ints(tokens) }),
          };
    const feeds = Object.fromEntries(session.inputNames.filter((name) => name in all).map((name) => [name, all[name]!]));
    const pairs = ['next_residual', 'query', 'key', 'value', ...(this.setup.dense ? [] : ['utility'])];
    const names = last ? ['logits'] : pairs;
    const outputs = await session.run(feeds, names);
    return names.map((name) => {
      const { buffer, byteOffset, byteLength } = outputs[name]!.data as Float32Array;
      return new Uint8Array(buffer, byteOffset, byteLength);
    });
  }
}

async function serve(): Promise<void> {
  // What ends the program that is served ends this one, by the end of the channel; not the terminal beside it.
  for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => {});
  const parts = await Parts.load(JSON.parse(process.argv[2]!) as PartsSetup);
  answer(false);
  for (;;) {
    const head = receive(REQUEST_BYTES);
    if (!head) return;
    const view = new DataView(head.buffer);
    const data = receive(Number(view.getBigUint64(16, true)));
    if (!data) return;
    try {
      answer(false, ...(await parts.run(view.getUint32(0, true), view.getUint32(4, true), view.getUint32(8, true), data)));
    } catch (error) {
      fail(error);
    }
  }
}

serve().catch(fail).finally(() => process.exit());
