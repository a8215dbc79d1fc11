import { invalid } from '../check.js';
import { SpkvError } from '../errors.js';
import { JobThread } from '../jobs.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { Automaton } from './automaton.js';
import { checkSource, compile, type ConstraintSource } from './compile.js';
import { Constraint } from './constraint.js';
import { Masks, type Prepared } from './masks.js';
import { readVocabulary, type Vocabulary } from './vocabulary.js';

/** Constraints that are kept for whoever asks for the same. */
const MAX_KEPT = 32;
/** Constraints that may wait to be made. */
const MAX_WAITING = 32;
const FAREWELL = 'The model has been disposed';
/** Memory of the tokens that one constraint allows, in bytes. */
export const MASK_BYTES = 16 << 20;

/** The model whose tokens are to be constrained. */
export interface CompilerModel {
  /** Of the checkpoint. */
  dir: string;
  tokenizer: Tokenizer;
  vocabSize: number;
  eosTokenIds: readonly number[];
}

/** What the worker is told at first. */
export type WorkerSetup = Omit<CompilerModel, 'tokenizer'>;

/** What it answers. */
export interface Compiled {
  automaton: Automaton;
  /** What was found ahead. */
  prepared?: Prepared;
  /** With the first answer. */
  vocabulary?: Vocabulary;
}

/** Makes constraints of the texts of one model, in a thread of its own. */
export class Compiler {
  readonly #model: CompilerModel;
  readonly #ends: ReadonlySet<number>;
  /** The least recently used first. */
  readonly #kept = new Map<string, Promise<Constraint>>();
  /** Is given a {@link ConstraintSource} as JSON, which no depth of it can break. */
  readonly #thread: JobThread<string, Compiled>;
  #vocabulary: Vocabulary | undefined;
  #disposed = false;

  constructor(model: CompilerModel) {
    this.#model = model;
    this.#ends = new Set(model.eosTokenIds);
    const { dir, vocabSize, eosTokenIds } = model;
    this.#thread = new JobThread({
      module: new URL('./worker.js', import.meta.url),
      setup: { dir, vocabSize, eosTokenIds } satisfies WorkerSetup,
      purpose: 'makes constraints',
      farewell: FAREWELL,
    });
  }

  /** Errors: INVALID_ARGUMENT, UNSUPPORTED; OVERLOADED when too many others wait; DISPOSED. */
  async compile(given: ConstraintSource): Promise<Constraint> {
    if (this.#disposed) throw new SpkvError('DISPOSED', FAREWELL);
    const key = textOf(checkSource(given));
    const known = this.#kept.get(key);
    const constraint = known ?? this.#make(key);
    this.#kept.delete(key);
    this.#kept.set(key, constraint);
    if (this.#kept.size > MAX_KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    if (!known) constraint.catch(() => this.#kept.get(key) === constraint && this.#kept.delete(key));
    return constraint;
  }

  /** Ends the thread. Who waits for a constraint is told DISPOSED. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    await this.#thread[Symbol.asyncDispose]();
  }

  async #make(source: string): Promise<Constraint> {
    const { tokenizer, vocabSize } = this.#model;
    const compiled: Compiled = this.#thread.available ? await this.#beside(source) : { automaton: compile(JSON.parse(source) as ConstraintSource) };
    this.#vocabulary ??= compiled.vocabulary ?? readVocabulary(tokenizer, vocabSize, this.#ends);
    return new Constraint(new Masks(compiled.automaton, this.#vocabulary, this.#ends, MASK_BYTES, compiled.prepared), tokenizer, this.#ends);
  }

  async #beside(source: string): Promise<Compiled> {
    const { waiting } = this.#thread;
    if (waiting >= MAX_WAITING) throw new SpkvError('OVERLOADED', `${waiting} constraints are waiting to be made already`);
    return this.#thread.run(source);
  }
}

/** A source as JSON, which is all that counts of it. */
function textOf(source: ConstraintSource): string {
  try {
    return JSON.stringify(source);
  } catch (error) {
    throw invalid(`JSON (${(error as Error).message})`, 'jsonSchema', 'jsonSchema' in source ? source.jsonSchema : source);
  }
}
