import { SpkvError } from '../errors.js';
import type { Model } from '../model/model.js';
import type { StepMemory } from '../model/network.js';
import type { Device, PoolStats } from '../ops.js';
import type { Batch } from './batch.js';
import type { Choice } from './choice.js';
import { keptOf } from './kept.js';
import { tokenLogprobs } from './logprobs.js';
import { Rows } from './rows.js';

/** Runs steps on the device. */
export class Runner {
  readonly #model: Model;
  readonly #device: Device;
  readonly #memory: StepMemory;
  readonly #rows: Rows;
  readonly #onPool: (stats: PoolStats) => void;
  readonly #meanwhile: () => void;

  /** `onPool` is told the state of the pool after every step; `meanwhile` does what can be done while the device is at work. */
  constructor(model: Model, maxSequences: number, stepTokens: number, onPool: (stats: PoolStats) => void, meanwhile: () => void) {
    this.#model = model;
    this.#device = model.device;
    this.#memory = model.network.createMemory(stepTokens);
    this.#rows = new Rows(model.network, model.cache, this.#memory, maxSequences);
    this.#onPool = onPool;
    this.#meanwhile = meanwhile;
  }

  /**
   * Runs a step and fills in what came of it. A text that is not finite fails by itself. Errors: POOL_EXHAUSTED, after
   * which everything is as before; others where the device fails.
   */
  async run(batch: Batch): Promise<void> {
    batch.drawn = new Int32Array(batch.rows.length);
    batch.logprobs = [];
    try {
      await this.#step(batch);
    } catch (error) {
      this.#rows.failed();
      if (!(error instanceof SpkvError) || error.code !== 'NON_FINITE') throw error;
      await this.#isolate(batch, error);
    }
  }

  /** Finds out whose fault a failed step was, and takes the others through it. */
  async #isolate(batch: Batch, error: SpkvError): Promise<void> {
    const { rows, pieces, failures } = batch;
    const [first] = [...rows, ...pieces.map(({ choice }) => choice)];
    const inserted = (await first!.sequence!.stats()).length > first!.read;
    if (inserted) {
      // Only the drawing has failed.
      await this.#device.submit(() => this.#readKept(batch));
      this.#advance(batch);
      for (const [row, choice] of rows.entries()) {
        const one = { ...batch, rows: [choice], drawn: batch.drawn.subarray(row, row + 1), logprobs: [undefined] };
        await alone(choice, failures, () => this.#take(one, row));
        batch.logprobs[row] = one.logprobs[0];
      }
      return;
    }
    if (rows.length + pieces.length === 1) {
      failures.set(first!, error);
      return;
    }
    for (const [row, choice] of rows.entries()) {
      const one = { ...batch, rows: [choice], pieces: [], drawn: new Int32Array(1) };
      await alone(choice, failures, () => this.run(one));
      batch.drawn[row] = one.drawn[0]!;
      batch.logprobs[row] = one.logprobs[0];
    }
    for (const piece of pieces) await alone(piece.choice, failures, () => this.run({ ...batch, rows: [], pieces: [piece] }));
  }

  async #step(batch: Batch): Promise<void> {
    const { rows, pieces } = batch;
    const answers = this.#device.submit(() => {
      if (rows.length > 0) this.#rows.bind(rows);
      if (pieces.length > 0) this.#mixed(batch);
      else this.#rows.step(batch.failures);
      return Promise.all([this.#read(batch, 0), this.#readKept(batch), this.#model.cache.stats().then(this.#onPool)]);
    });
    this.#meanwhile();
    await answers;
    this.#advance(batch);
    this.#rows.drawn(batch.drawn);
  }

  /** Enqueues a step with pieces of prompts, behind the rows. */
  #mixed({ rows, pieces, failures }: Batch): void {
    const { cache } = this.#model;
    const ids = rows.map((choice) => choice.ids[choice.read]!);
    const offsets = [...rows.keys(), rows.length];
    for (const piece of pieces) {
      for (const id of piece.ids) ids.push(id);
      offsets.push(ids.length);
    }
    const sequences = [...rows, ...pieces.map(({ choice }) => choice)];
    const step = this.#memory.take(ids.length);
    step.ids.write(Int32Array.from(ids));
    using slots = this.#device.from(Int32Array.from(sequences, ({ sequence }) => sequence!.slot));
    using starts = this.#device.from(Int32Array.from(offsets));
    if (rows.length === 0) return step.forward(cache, { slots, offsets: starts });
    step.forward(cache, { slots, offsets: starts, logits: this.#rows.logits(0, rows.length) });
    this.#rows.draw(0, rows.length, failures);
  }

  /** Draws the token of one row again, after the others have kept it from being taken. */
  async #take(batch: Batch, row: number): Promise<void> {
    await this.#device.submit(() => {
      this.#rows.draw(row, row + 1, batch.failures);
      return this.#read(batch, row);
    });
  }

  /** Asks for what was drawn in rows from `start` on. */
  async #read({ rows, drawn, logprobs }: Batch, start: number): Promise<void> {
    if (rows.length === 0) return this.#device.synchronize();
    const ids = this.#rows.ids(start, start + rows.length).read();
    const logits: Promise<{ row: number; count: number; values: Float32Array }>[] = [];
    for (const [row, choice] of rows.entries()) {
      const count = choice.request.options.logprobs;
      if (count === undefined) continue;
      const values = this.#rows.logits(start + row, start + row + 1).read() as Promise<Float32Array>;
      logits.push(values.then((each) => ({ row, count, values: each })));
    }
    const [tokens, all] = await Promise.all([ids as Promise<Int32Array>, Promise.all(logits)]);
    drawn.set(tokens);
    for (const { row, count, values } of all) logprobs[row] = tokenLogprobs(values, drawn[row]!, count);
  }

  /** Asks what is kept of the tokens of the last step, where somebody wants to know. */
  async #readKept({ rows, pieces, kept }: Batch): Promise<void> {
    if (rows.every((choice) => !choice.kept) && pieces.every(({ choice }) => !choice.kept)) return;
    const parts = [...rows.map((choice) => ({ choice, count: 1 })), ...pieces.map(({ choice, ids }) => ({ choice, count: ids.length }))];
    const tokens = parts.reduce((sum, { count }) => sum + count, 0);
    const utilities = (await this.#memory.take(tokens).utilities?.read()) as Float32Array | undefined;
    let start = 0;
    for (const { choice, count } of parts) {
      if (choice.kept) kept.set(choice, keptOf(this.#model.cache, utilities, choice.request.options.threshold, start, start + count));
      start += count;
    }
  }

  #advance({ rows, pieces }: Batch): void {
    for (const { sequence } of rows) sequence!.advance(1);
    for (const { choice, ids } of pieces) choice.sequence!.advance(ids.length);
  }

  dispose(): void {
    this.#rows.dispose();
    this.#memory.dispose();
  }
}

/** Runs what concerns one text; what goes wrong is its failure. */
async function alone(choice: Choice, failures: Map<Choice, SpkvError>, run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof SpkvError)) throw error;
    failures.set(choice, error);
  }
}
