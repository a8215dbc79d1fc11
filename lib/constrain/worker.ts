// The thread in which a Compiler makes constraints. It reads the tokens of the model once.
import { parentPort, workerData } from 'node:worker_threads';
import { SpkvError } from '../errors.js';
import { loadTokenizer } from '../text/tokenizer.js';
import { compile, type ConstraintSource } from './compile.js';
import { type CompileAnswer, type CompileJob, MASK_BYTES, type WorkerSetup } from './compiler.js';
import { Masks } from './masks.js';
import { readVocabulary, type Vocabulary } from './vocabulary.js';

/** Milliseconds for finding ahead what the states of an automaton allow; the rest is found as it is needed. */
const PREPARE_MS = 500;

const { dir, vocabSize, eosTokenIds } = workerData as WorkerSetup;
const ends = new Set(eosTokenIds);
const tokenizer = await loadTokenizer(dir);
let vocabulary: Vocabulary | undefined;
let told = false;

parentPort!.on('message', ({ number, source }: CompileJob) => {
  try {
    const automaton = compile(JSON.parse(source) as ConstraintSource);
    vocabulary ??= readVocabulary(tokenizer, vocabSize, ends);
    const prepared = new Masks(automaton, vocabulary, ends, MASK_BYTES).prepare(PREPARE_MS);
    parentPort!.postMessage({ number, automaton, prepared, ...(!told && { vocabulary }) } satisfies CompileAnswer);
    told = true;
  } catch (error) {
    const code = error instanceof SpkvError ? error.code : undefined;
    parentPort!.postMessage({ number, error: (error as Error).message, code } satisfies CompileAnswer);
  }
});
