import type { Needles } from './needles.js';
import type { Row, Rows } from './rows.js';

/** Rows put end to end, as a training step takes them. */
export interface Batch {
  /** [T] */
  ids: Int32Array;
  /** [T] */
  targets: Int32Array;
  /** Bounds of the parts that do not see each other, from 0 to T. */
  offsets: Int32Array;
}

export function joinRows(rows: readonly Row[]): Batch {
  const tokens = rows.reduce((sum, { ids }) => sum + ids.length, 0);
  const ids = new Int32Array(tokens);
  const targets = new Int32Array(tokens);
  const offsets: number[] = [];
  let at = 0;
  for (const row of rows) {
    ids.set(row.ids, at);
    targets.set(row.targets, at);
    for (const start of row.starts) offsets.push(at + start);
    at += row.ids.length;
  }
  return { ids, targets, offsets: Int32Array.from([...offsets, tokens]) };
}

export interface BatchOptions {
  /** Rows of one step, over all processes. */
  batchSize: number;
  /** Rows that are computed at a time. */
  microBatch: number;
  /** The share of rows with needles; above 0 there is at least one in every batch. */
  needleShare: number;
}

/** The part of every batch that one process computes. */
export interface Part {
  rank: number;
  worldSize: number;
}

/** The batches of a run. What a step trains on depends on the data, the options and its number alone. */
export class Batches {
  readonly #needlesPerStep: number;

  constructor(
    private readonly rows: Rows,
    private readonly needles: Needles | undefined,
    private readonly options: BatchOptions,
    private readonly part: Part = { rank: 0, worldSize: 1 },
  ) {
    const { batchSize, needleShare } = options;
    this.#needlesPerStep = needleShare > 0 ? Math.max(1, Math.round(batchSize * needleShare)) : 0;
  }

  /** The rows of a step that are this process's, as micro-batches. */
  async read(step: number): Promise<Batch[]> {
    const { batchSize, microBatch } = this.options;
    const share = batchSize / this.part.worldSize;
    const first = this.part.rank * share;
    const rows = await Promise.all(Array.from({ length: share }, (_, i) => this.#row(step, first + i)));
    const batches: Batch[] = [];
    for (let at = 0; at < rows.length; at += microBatch) batches.push(joinRows(rows.slice(at, at + microBatch)));
    return batches;
  }

  /** Row `place` of a step: text first, needles last. */
  #row(step: number, place: number): Promise<Row> {
    const text = this.options.batchSize - this.#needlesPerStep;
    return place < text ? this.rows.read(step * text + place) : this.needles!.read(step * this.#needlesPerStep + place - text);
  }
}
