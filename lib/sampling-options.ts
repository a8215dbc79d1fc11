import { integer, invalid, isFiniteNumber, number, options } from './check.js';

/** How the next token is drawn. Without options the most likely token is taken (greedy decoding). */
export interface SamplingOptions {
  /** Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the most likely token. From 0 to 100. Defaults to 0. */
  temperature?: number;
  /** Only the so many most likely tokens can be drawn; 0 is no limit. Defaults to 0. */
  topK?: number;
  /** Only the fewest most likely tokens whose probabilities sum to at least this can be drawn. Above 0, at most 1. Defaults to 1. */
  topP?: number;
  /** Only tokens at least this times as likely as the most likely one can be drawn. From 0 to 1. Defaults to 0. */
  minP?: number;
  /** Divides positive logits of tokens that occurred (prompt included) and multiplies negative ones. Above 0. Defaults to 1, no penalty. */
  repetitionPenalty?: number;
  /** Subtracted from a token's logit for every time it was generated. From -2 to 2. Defaults to 0. */
  frequencyPenalty?: number;
  /** Subtracted once from the logit of every token that was generated. From -2 to 2. Defaults to 0. */
  presencePenalty?: number;
  /** The same seed, prompt and options draw the same tokens. An integer from 0 to 2^53 - 1. Defaults to 0. */
  seed?: number;
}

/** {@link SamplingOptions} with every default filled in. */
export type ResolvedSampling = Required<SamplingOptions>;

const NAMES = [
  'temperature', 'topK', 'topP', 'minP', 'repetitionPenalty', 'frequencyPenalty', 'presencePenalty', 'seed',
] as const satisfies readonly (keyof SamplingOptions)[];

/** Checks sampling options and fills in the defaults. Errors: INVALID_ARGUMENT. */
export function resolveSampling(given?: SamplingOptions): ResolvedSampling {
  const {
    temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, frequencyPenalty = 0, presencePenalty = 0, seed = 0,
  } = options(given, 'sampling options', NAMES);
  return {
    temperature: number(temperature, 'temperature', 0, 100),
    topK: integer(topK, 'topK', 0, 1e9),
    topP: positive(topP, 'topP', 1),
    minP: number(minP, 'minP', 0, 1),
    repetitionPenalty: positive(repetitionPenalty, 'repetitionPenalty', Infinity),
    frequencyPenalty: number(frequencyPenalty, 'frequencyPenalty', -2, 2),
    presencePenalty: number(presencePenalty, 'presencePenalty', -2, 2),
    seed: integer(seed, 'seed'),
  };
}

/** The range of normal numbers in single precision, in which the sampler works. */
const LEAST = 2 ** -126;
const LARGEST = (2 - 2 ** -23) * 2 ** 127;

/** Returns `value` if it is a number in (0, max] that single precision can express. */
function positive(value: unknown, name: string, max: number): number {
  if (isFiniteNumber(value, LEAST, Math.min(max, LARGEST))) return value;
  throw invalid(max === Infinity ? 'a number above 0' : `a number above 0 and at most ${max}`, name, value);
}
