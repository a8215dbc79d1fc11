// The thread in which a Compiler makes constraints. It reads the tokens of the model once.
import { workerData } from 'node:worker_threads';
import { answerJobs } from '../jobs.js';
import { loadTokenizer } from '../text/tokenizer.js';
import { compile, type ConstraintSource } from './compile.js';
import { type Compiled, MASK_BYTES, type WorkerSetup } from './compiler.js';
import { Masks } from './masks.js';
import { readVocabulary, type Vocabulary } from './vocabulary.js';

/** Milliseconds for finding ahead what the states of an automaton allow; the rest is found as it is needed. */
const PREPARE_MS = 500;

const { dir, vocabSize, eosTokenIds } = workerData as WorkerSetup;
const ends = new Set(eosTokenIds);
const tokenizer = await loadTokenizer(dir);
let vocabulary: Vocabulary | undefined;
let told = false;

answerJobs<string, Compiled>((source) => {
  const automaton = compile(JSON.parse(source) as ConstraintSource);
  vocabulary ??= readVocabulary(tokenizer, vocabSize, ends);
  const prepared = new Masks(automaton, vocabulary, ends, MASK_BYTES).prepare(PREPARE_MS);
  const compiled = { automaton, prepared, ...(!told && { vocabulary }) };
  told = true;
  return compiled;
});
