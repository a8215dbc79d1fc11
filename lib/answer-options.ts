import { boolean, integer, invalid, number } from './check.js';
import { Constraint } from './constrain/constraint.js';
import { SpkvError } from './errors.js';
import { resolveSampling, type ResolvedSampling, type SamplingOptions } from './sampling-options.js';
import type { TextModel } from './text-model.js';

/** What a text that answers a prompt shall be like, whoever runs it. */
export interface AnswerOptions extends SamplingOptions {
  /** Most tokens to generate. Defaults to 256. */
  maxTokens?: number;
  /** τ: pairs with a predicted utility below it are dropped when they leave the window. Defaults to the model's own. */
  threshold?: number;
  /** Text that ends the generation; it is not part of the output. */
  stop?: string | readonly string[];
  /** Go on after an end-of-text token. Defaults to false. */
  ignoreEos?: boolean;
  /** What the text shall be like, from {@link TextModel.constrain}. It ends where it is whole. Defaults to anything. */
  constraint?: Constraint;
}

export const ANSWER_OPTION_NAMES = [
  'maxTokens', 'threshold', 'stop', 'ignoreEos', 'constraint', 'temperature', 'topK', 'topP', 'minP', 'repetitionPenalty', 'frequencyPenalty',
  'presencePenalty', 'seed',
] as const satisfies readonly (keyof AnswerOptions)[];

/** {@link AnswerOptions} checked, with every default filled in. */
export interface ResolvedAnswer {
  /** The prompt. */
  ids: readonly number[];
  /** At most what the model has positions for. */
  maxTokens: number;
  threshold: number;
  stop: readonly string[];
  eosTokenIds: ReadonlySet<number>;
  constraint: Constraint | undefined;
  sampling: ResolvedSampling;
}

/** Errors: INVALID_ARGUMENT, OUT_OF_RANGE. */
export function resolveAnswer(model: TextModel, prompt: string | readonly number[], opts: AnswerOptions): ResolvedAnswer {
  const { maxTokens, threshold, stop, ignoreEos, constraint, ...sampling } = opts;
  const resolved = resolveSampling(sampling);
  const stops = typeof stop === 'string' ? [stop] : (stop ?? []);
  if (!Array.isArray(stops) || stops.some((text) => typeof text !== 'string' || text === '')) {
    throw invalid('a non-empty string or an array of them', 'stop', stop);
  }
  const ids = typeof prompt === 'string' ? model.encode(prompt) : prompt;
  if (!Array.isArray(ids)) throw invalid('a string or an array of token ids', 'prompt', prompt);
  if (ids.length === 0) throw invalid('a prompt of at least one token', 'prompt', prompt);
  const { maxPositions, eosTokenIds } = model.config;
  if (ids.length > maxPositions) {
    throw new SpkvError('OUT_OF_RANGE', `The prompt has ${ids.length} tokens; the model was made for at most ${maxPositions}`);
  }
  const ignore = ignoreEos !== undefined && boolean(ignoreEos, 'ignoreEos');
  if (constraint !== undefined) {
    if (!(constraint instanceof Constraint)) throw invalid('a constraint made by model.constrain()', 'constraint', constraint);
    if (constraint.tokenizer !== model.tokenizer) throw new SpkvError('INVALID_ARGUMENT', 'The constraint was made for another model');
    if (ignore) throw new SpkvError('INVALID_ARGUMENT', 'Expected no ignoreEos beside a constraint: a text that is whole ends');
  }
  return {
    ids,
    maxTokens: Math.min(integer(maxTokens ?? 256, 'maxTokens', 1), maxPositions - ids.length + 1),
    threshold: threshold === undefined ? model.threshold : number(threshold, 'threshold', 0, 2),
    stop: stops,
    eosTokenIds: new Set(ignore ? [] : eosTokenIds),
    constraint,
    sampling: resolved,
  };
}
