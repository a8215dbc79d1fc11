import { basename, resolve } from 'node:path';
import { integer, invalid, oneOf, options, string } from '../check.js';
import { ENGINE_OPTION_NAMES, type EngineOptions } from '../engine/options.js';
import type { TextModel } from '../text-model.js';

/** Levels of logging, from all to nothing. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** What a server is called, whom it serves and what it bears; all optional. */
export interface ServerOptions {
  /** What requests call the model. Defaults to the name of the checkpoint's directory. */
  name?: string;
  /** Keys, one of which a request must bring. Defaults to none: everybody who reaches the server may ask. */
  apiKeys?: readonly string[];
  /** Most tokens of a prompt. Defaults to as many as the model has positions for. */
  maxPromptTokens?: number;
  /** Most tokens that one text may have. Defaults to as many as the model has positions for. */
  maxTokens?: number;
  /** Most bytes of a request. Defaults to 8 MiB. */
  maxBodyBytes?: number;
  /** Milliseconds within which a request must have come in whole. Defaults to 30,000. */
  receiveTimeout?: number;
  /** Milliseconds within which it must have been answered; 0 is no limit. Defaults to 600,000. */
  answerTimeout?: number;
  /** Milliseconds that `close` waits for answers that are being written. Defaults to 30,000. */
  drainTimeout?: number;
  /** Options of the engine. */
  engine?: Omit<EngineOptions, 'onStep' | 'onRequest'>;
  /** Least level of what is logged, as JSON lines on stdout. Defaults to 'silent'. */
  logLevel?: LogLevel;
}

export type ResolvedServerOptions = Required<ServerOptions>;

const NAMES = [
  'name', 'apiKeys', 'maxPromptTokens', 'maxTokens', 'maxBodyBytes', 'receiveTimeout', 'answerTimeout', 'drainTimeout', 'engine', 'logLevel',
] as const;
/** The hooks are the server's own. */
const ENGINE_NAMES = ENGINE_OPTION_NAMES.filter((name) => name !== 'onStep' && name !== 'onRequest');
const DAY = 86_400_000;

/** Errors: INVALID_ARGUMENT. */
export function resolveServerOptions(model: TextModel, opts?: ServerOptions): ResolvedServerOptions {
  const given = options(opts, 'server options', NAMES);
  const { maxPositions } = model.config;
  const keys = given.apiKeys ?? [];
  if (!Array.isArray(keys) || keys.some((key) => typeof key !== 'string' || !/^[\x21-\x7e]+$/.test(key))) {
    throw invalid('an array of keys of visible ASCII characters', 'apiKeys', given.apiKeys);
  }
  const name = string(given.name ?? basename(resolve(model.checkpoint.dir)), 'name');
  if (name === '') throw invalid('a name', 'name', name);
  return {
    name,
    apiKeys: keys,
    maxPromptTokens: integer(given.maxPromptTokens ?? maxPositions, 'maxPromptTokens', 1),
    maxTokens: integer(given.maxTokens ?? maxPositions, 'maxTokens', 1),
    maxBodyBytes: integer(given.maxBodyBytes ?? 8 << 20, 'maxBodyBytes', 1, 1 << 30),
    receiveTimeout: integer(given.receiveTimeout ?? 30_000, 'receiveTimeout', 1, DAY),
    answerTimeout: integer(given.answerTimeout ?? 600_000, 'answerTimeout', 0, DAY),
    drainTimeout: integer(given.drainTimeout ?? 30_000, 'drainTimeout', 0, DAY),
    engine: options(given.engine, 'engine options of the server', ENGINE_NAMES),
    logLevel: oneOf(given.logLevel ?? 'silent', 'logLevel', LOG_LEVELS),
  };
}
