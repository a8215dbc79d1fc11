import { join } from 'node:path';
import { SpkvError } from '../../errors.js';
import { type Batch, Batches, joinRows, type Part } from './batches.js';
import { type NeedleRow, Needles } from './needles.js';
import { type Encoding, isTokenFile, openTokens, prepareTokens } from './prepare.js';
import { type RowOptions, Rows } from './rows.js';
import { type DataSource, findFiles, type SourceFile } from './sources.js';
import { documentsOf, type Span, splitDocuments } from './split.js';
import type { TokenFile } from './token-file.js';

export interface DataOptions {
  /** Where token files are made. */
  dir: string;
  data: readonly DataSource[];
  /** Null: a share of the data. */
  validation: readonly DataSource[] | null;
  validationShare: number;
  encoding: Encoding;
  skipBadData: boolean;
  /** Whether token files that are missing are made; another process has made them otherwise. */
  make: boolean;
  onProgress?: (done: number, total: number) => void;
  onWarning?: (message: string) => void;
  signal?: AbortSignal | undefined;
}

export interface BatchPlan {
  sequenceLength: number;
  batchSize: number;
  microBatch: number;
  packing: 'documents' | 'stream';
  needles: number;
  seed: number;
  validationTokens: number;
}

/** The data of a run: token files, and which of their documents are for what. */
export class TrainingData implements AsyncDisposable {
  private constructor(
    private readonly tokens: TokenFile,
    private readonly held: TokenFile,
    private readonly train: readonly Span[],
    private readonly validation: readonly Span[],
    private readonly encoding: Encoding,
  ) {}

  /** Makes or opens the token files. Errors: FILE, UNSUPPORTED, the reason of the signal. */
  static async open(options: DataOptions): Promise<TrainingData> {
    const held = options.validation === null || !options.make ? [] : await findFiles(options.validation);
    const tokens = await openSources(options, options.data, join(options.dir, 'tokens'), held);
    if (options.validation === null) {
      const { train, validation } = splitDocuments(tokens, options.validationShare);
      return new TrainingData(tokens, tokens, train, validation, options.encoding);
    }
    const heldTokens = await openSources(options, options.validation, join(options.dir, 'validation-tokens'), []);
    return new TrainingData(tokens, heldTokens, documentsOf(tokens), documentsOf(heldTokens), options.encoding);
  }

  get trainingTokens(): number {
    return total(this.train);
  }

  get validationTokens(): number {
    return total(this.validation);
  }

  /** What all ranks of a run must have in common. */
  get facts(): Record<string, unknown> {
    return { data: this.tokens.fingerprint, 'validation data': this.held.fingerprint, 'training tokens': this.trainingTokens, 'validation tokens': this.validationTokens };
  }

  batches(plan: BatchPlan, part?: Part): Batches {
    const rows = this.#rows(plan, plan.packing === 'documents', plan.seed);
    const { tokenizer } = this.encoding;
    if (plan.needles > 0 && !tokenizer) throw new SpkvError('UNSUPPORTED', 'Needles are made of text: the model needs a tokenizer.json');
    const needles = plan.needles > 0 ? new Needles(this.#rows(plan, false, plan.seed + 1), tokenizer!, plan.seed) : undefined;
    return new Batches(rows, needles, { batchSize: plan.batchSize, microBatch: plan.microBatch, needleShare: plan.needles }, part);
  }

  /** What is measured at every validation: always the same rows, in micro-batches. Empty where there is too little. */
  async validationBatches({ sequenceLength, microBatch, packing, validationTokens }: BatchPlan): Promise<Batch[]> {
    const length = Math.min(sequenceLength, this.validationTokens - 1);
    if (length < 1) return [];
    const rows = new Rows(this.held, this.validation, { sequenceLength: length, boundaries: packing === 'documents', seed: 0, shuffle: true });
    const count = Math.min(rows.perPass, Math.max(1, Math.floor(validationTokens / length)));
    const read = await Promise.all(Array.from({ length: count }, (_, i) => rows.read(i)));
    return Array.from({ length: Math.ceil(count / microBatch) }, (_, i) => joinRows(read.slice(i * microBatch, (i + 1) * microBatch)));
  }

  /** Sequences with needles in validation text, always the same. Empty where there is too little of it. */
  async validationNeedles({ sequenceLength, validationTokens }: BatchPlan): Promise<NeedleRow[]> {
    if (this.validationTokens <= sequenceLength) return [];
    const rows = new Rows(this.held, this.validation, { sequenceLength, boundaries: false, seed: 0, shuffle: true });
    const needles = new Needles(rows, this.encoding.tokenizer!, 0);
    return Promise.all(Array.from({ length: Math.max(1, Math.floor(validationTokens / sequenceLength)) }, (_, i) => needles.read(i)));
  }

  #rows({ sequenceLength }: BatchPlan, boundaries: boolean, seed: number): Rows {
    const options: RowOptions = { sequenceLength, boundaries, seed, shuffle: true };
    return new Rows(this.tokens, this.train, options);
  }

  async dispose(): Promise<void> {
    await this.tokens.dispose();
    if (this.held !== this.tokens) await this.held.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/** A token file that was made before is taken as it is; other sources become one, without the files of `without`. */
async function openSources(options: DataOptions, sources: readonly DataSource[], dir: string, without: readonly SourceFile[]): Promise<TokenFile> {
  if (sources.length === 1 && (await isTokenFile(sources[0]!.path))) return openTokens(sources[0]!.path, options.encoding);
  if (!options.make) return openTokens(dir, options.encoding);
  const excluded = new Set(without.map(({ path }) => path));
  const files = (await findFiles(sources)).filter(({ path }) => !excluded.has(path));
  const { encoding, skipBadData: skipBad, onProgress, onWarning, signal } = options;
  return prepareTokens({ dir, files, encoding, skipBad, signal, ...(onProgress && { onProgress }), ...(onWarning && { onWarning }) });
}

function total(spans: readonly Span[]): number {
  return spans.reduce((sum, { start, end }) => sum + end - start, 0);
}
