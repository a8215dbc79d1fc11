import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type ChannelHandle, type GraphSessionHandle, native, settle } from '../native.js';
import type { Batch } from '../model/network.js';
import type { Device, KvCache, Tensor } from '../ops.js';
import type { StepTensors } from './memory.js';
import type { PartsSetup } from './parts-process.js';

/** A graph that onnxruntime runs within this process, on the stream's thread. */
export class GraphSession {
  readonly #handle: GraphSessionHandle;

  private constructor(handle: GraphSessionHandle) {
    this.#handle = handle;
  }

  /** `threads` are those of onnxruntime's own pool; 0: as many as the device has. */
  static async open(device: Device, library: string, graph: string, threads: number, signal?: AbortSignal): Promise<GraphSession> {
    return new GraphSession(await device.submit(() => settle(native().openGraph(device.handle, library, graph, threads)), signal));
  }

  /** Enqueues a run: from ids to logits, where they are wanted, and the new pairs of all layers. */
  run({ ids, positions, keys, values, utilities }: StepTensors, cache: KvCache, { slots, offsets, logits, rows }: Batch, vocabulary: number): void {
    native().runGraph(
      logits?.handle ?? null, keys.handle, values.handle, utilities?.handle ?? null, this.#handle, cache.handle, ids.handle,
      positions.handle, slots.handle, offsets.handle, rows?.handle ?? null, vocabulary,
    );
  }

  dispose(): void {
    native().disposeGraph(this.#handle);
  }
}

const PROGRAM = fileURLToPath(new URL('./parts-process.js', import.meta.url));
/** Where the sources are run uncompiled, tsx compiles the program, too. */
const COMMAND = existsSync(PROGRAM) ? [PROGRAM] : ['--import', 'tsx', PROGRAM.replace(/\.js$/, '.ts')];

/**
 * onnxruntime-node in a process of its own, which is asked by the stream's thread. A thread would do for the event
 * loop; but one that is ended within a run of onnxruntime takes the whole program with it.
 */
export class PartsProcess {
  readonly #channel: ChannelHandle;

  private constructor(channel: ChannelHandle) {
    this.#channel = channel;
  }

  /** Resolves when the parts are loaded. */
  static async open(device: Device, setup: PartsSetup, signal?: AbortSignal): Promise<PartsProcess> {
    const { channel, farEnd } = native().openChannel(device.handle);
    // The program's options, an inspector's port for one, are not for others.
    const child = spawn(process.execPath, [...COMMAND, JSON.stringify(setup)], {
      stdio: ['ignore', 'ignore', 'inherit', farEnd],
      env: { ...process.env, NODE_OPTIONS: '', ELECTRON_RUN_AS_NODE: '1' },
    });
    child.on('error', () => {}); // found out by the greeting, which never comes
    child.unref();
    const parts = new PartsProcess(channel);
    try {
      await device.submit(() => settle(native().greetChannel(channel)), signal);
    } catch (error) {
      parts.dispose();
      throw error;
    }
    return parts;
  }

  /** Enqueues the run of a part for `tokens` tokens, of which the last part looks at `rows`. */
  run(part: number, tokens: number, rows: number, outputs: readonly Tensor[], inputs: readonly Tensor[]): void {
    native().exchange(this.#channel, part, tokens, rows, outputs.length, ...[...outputs, ...inputs].map(({ handle }) => handle));
  }

  /** The other process ends once nothing is enqueued for it any more. */
  dispose(): void {
    native().disposeChannel(this.#channel);
  }
}
