import { existsSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { invalid } from '../check.js';
import { type ErrorCode, SpkvError } from '../errors.js';
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
/** Memory of the tokens that one constraint allows, in bytes. */
export const MASK_BYTES = 16 << 20;
const WORKER = new URL('./worker.js', import.meta.url);
/** Where the sources are run uncompiled there is none, and constraints are made here. */
const HAS_WORKER = existsSync(WORKER);

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

export interface CompileJob {
  number: number;
  /** A {@link ConstraintSource} as JSON, which no depth of it can break. */
  source: string;
}

export interface Compiled {
  automaton: Automaton;
  /** What was found ahead. */
  prepared?: Prepared;
  /** With the first answer. */
  vocabulary?: Vocabulary;
}

export type CompileAnswer = { number: number } & (Compiled | { error: string; code: ErrorCode | undefined });

/** Makes constraints of the texts of one model, in a thread of its own. */
export class Compiler {
  readonly #model: CompilerModel;
  readonly #ends: ReadonlySet<number>;
  /** The least recently used first. */
  readonly #kept = new Map<string, Promise<Constraint>>();
  readonly #waiting = new Map<number, { resolve: (compiled: Compiled) => void; reject: (error: Error) => void }>();
  #worker: Worker | undefined;
  #vocabulary: Vocabulary | undefined;
  #jobs = 0;
  #disposed = false;

  constructor(model: CompilerModel) {
    this.#model = model;
    this.#ends = new Set(model.eosTokenIds);
  }

  /** Errors: INVALID_ARGUMENT, UNSUPPORTED; OVERLOADED when too many others wait; DISPOSED. */
  async compile(given: ConstraintSource): Promise<Constraint> {
    if (this.#disposed) throw disposed();
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
    await this.#worker?.terminate();
  }

  async #make(source: string): Promise<Constraint> {
    const { tokenizer, vocabSize } = this.#model;
    const compiled: Compiled = HAS_WORKER ? await this.#beside(source) : { automaton: compile(JSON.parse(source) as ConstraintSource) };
    this.#vocabulary ??= compiled.vocabulary ?? readVocabulary(tokenizer, vocabSize, this.#ends);
    return new Constraint(new Masks(compiled.automaton, this.#vocabulary, this.#ends, MASK_BYTES, compiled.prepared), tokenizer, this.#ends);
  }

  #beside(source: string): Promise<Compiled> {
    if (this.#waiting.size >= MAX_WAITING) throw new SpkvError('OVERLOADED', `${this.#waiting.size} constraints are waiting to be made already`);
    this.#worker ??= this.#start();
    const number = this.#jobs++;
    this.#worker.ref();
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      this.#worker!.postMessage({ number, source } satisfies CompileJob);
    });
  }

  #start(): Worker {
    const { dir, vocabSize, eosTokenIds } = this.#model;
    const worker = new Worker(WORKER, { workerData: { dir, vocabSize, eosTokenIds } satisfies WorkerSetup });
    worker.on('message', (answer: CompileAnswer) => {
      const { resolve, reject } = this.#waiting.get(answer.number)!;
      this.#waiting.delete(answer.number);
      if (this.#waiting.size === 0) worker.unref();
      if ('error' in answer) reject(new SpkvError(answer.code ?? 'INTERNAL', answer.error));
      else resolve(answer);
    });
    const lost = (reason: string) => {
      if (this.#worker === worker) this.#worker = undefined;
      const error = this.#disposed ? disposed() : new SpkvError('INTERNAL', `The thread that makes constraints has ended: ${reason}`);
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    };
    worker.on('error', (error) => lost(error.message));
    worker.on('exit', (code) => lost(`exit code ${code}`));
    return worker;
  }
}

function disposed(): SpkvError {
  return new SpkvError('DISPOSED', 'The model has been disposed');
}

/** A source as JSON, which is all that counts of it. */
function textOf(source: ConstraintSource): string {
  try {
    return JSON.stringify(source);
  } catch (error) {
    throw invalid(`JSON (${(error as Error).message})`, 'jsonSchema', 'jsonSchema' in source ? source.jsonSchema : source);
  }
}
