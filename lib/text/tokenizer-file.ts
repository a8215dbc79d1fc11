import { fileError, mismatch } from '../files.js';
import { isObject, type JsonObject, show } from '../json.js';

/** Largest token id that a tokenizer.json may hold: tables are made as long as the largest one. */
const MAX_TOKEN_ID = 2 ** 24 - 1;

/** Deepest nesting of normalizers, pre-tokenizers or decoders. */
const MAX_DEPTH = 64;

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** A tokenizer.json whose parts are all there and of the right kinds. */
export interface TokenizerFile {
  /** As given, with every part that may be left out filled in. */
  readonly json: JsonObject;
  readonly addedTokens: readonly AddedToken[];
  readonly decoder: JsonObject | null;
  /** Written at the end of words in the vocabulary; '' for most tokenizers. */
  readonly wordSuffix: string;
  /** The token for unknown text. */
  readonly unknownToken: string | undefined;
}

/** Checks what the tokenizer library takes on trust. Errors: FILE, naming `path`. */
export function checkTokenizerFile(json: JsonObject, path: string): TokenizerFile {
  const addedTokens = checkAddedTokens(json.added_tokens ?? [], path);
  const model = checkModel(json.model, path);
  for (const part of ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder']) checkPart(json[part] ?? null, part, path);
  const decoder = unwrap((json.decoder ?? null) as JsonObject | null);
  const { normalizer = null, pre_tokenizer = null, post_processor = null } = json;
  return {
    json: { ...json, added_tokens: json.added_tokens ?? [], normalizer, pre_tokenizer, post_processor, decoder, model },
    addedTokens,
    decoder,
    wordSuffix: typeof model.end_of_word_suffix === 'string' ? model.end_of_word_suffix : '',
    unknownToken: typeof model.unk_token === 'string' ? model.unk_token : undefined,
  };
}

function checkAddedTokens(list: unknown, path: string): AddedToken[] {
  if (!Array.isArray(list)) throw mismatch(path, 'added_tokens', 'a list', show(list));
  return list.map((item: unknown, index) => {
    const place = `added_tokens[${index}]`;
    if (!isObject(item)) throw mismatch(path, place, 'an object', show(item));
    const { id, content, special = false } = item;
    if (typeof content !== 'string' || content === '') throw mismatch(path, `${place}.content`, 'the text of a token', show(content));
    if (typeof special !== 'boolean') throw mismatch(path, `${place}.special`, 'true or false', show(special));
    return { id: checkId(id, `${place}.id`, path), content, special };
  });
}

function checkModel(model: unknown, path: string): JsonObject {
  if (!isObject(model)) throw mismatch(path, 'model', 'an object', show(model));
  const type = model.type ?? (model.merges !== undefined ? 'BPE' : Array.isArray(model.vocab) ? 'Unigram' : undefined);
  if (type === 'Unigram') checkPairs(model.vocab, 'model.vocab', path, 'a list of a token and its score', isScored);
  else if (type === 'BPE' || type === 'WordPiece' || type === 'WordLevel') checkVocabulary(model.vocab, path);
  else throw mismatch(path, 'model.type', 'BPE, Unigram, WordPiece or WordLevel', show(type));
  if (type === 'BPE') checkPairs(model.merges, 'model.merges', path, 'two tokens', isMerge);
  if (type === 'BPE' && model.continuing_subword_prefix) {
    throw mismatch(path, 'model.continuing_subword_prefix', 'nothing', show(model.continuing_subword_prefix));
  }
  for (const field of ['unk_token', 'end_of_word_suffix']) {
    const value = model[field] ?? null;
    if (value !== null && typeof value !== 'string') throw mismatch(path, `model.${field}`, 'a string or null', show(value));
  }
  return { ...model, type };
}

function checkVocabulary(vocab: unknown, path: string): void {
  if (!isObject(vocab)) throw mismatch(path, 'model.vocab', 'an object', show(vocab));
  for (const [token, id] of Object.entries(vocab)) checkId(id, `the id of token "${token}"`, path);
}

function checkPairs(list: unknown, place: string, path: string, expected: string, fits: (item: unknown) => boolean): void {
  if (!Array.isArray(list)) throw mismatch(path, place, 'a list', show(list));
  const wrong = list.findIndex((item) => !fits(item));
  if (wrong >= 0) throw mismatch(path, `${place}[${wrong}]`, expected, show(list[wrong]));
}

function isScored(item: unknown): boolean {
  return Array.isArray(item) && item.length === 2 && typeof item[0] === 'string' && typeof item[1] === 'number';
}

function isMerge(item: unknown): boolean {
  if (typeof item === 'string') return item.includes(' ');
  return Array.isArray(item) && item.length === 2 && typeof item[0] === 'string' && typeof item[1] === 'string';
}

function checkId(id: unknown, place: string, path: string): number {
  if (Number.isInteger(id) && (id as number) >= 0 && (id as number) <= MAX_TOKEN_ID) return id as number;
  throw mismatch(path, place, `a token id from 0 to ${MAX_TOKEN_ID}`, show(id));
}

/** Checks a step of the tokenizer and the steps inside it: each says what it is, and every pattern is one that is understood. */
function checkPart(part: unknown, place: string, path: string, depth = 0): void {
  if (part === null) return;
  if (depth > MAX_DEPTH) throw fileError(path, `expected at most ${MAX_DEPTH} nested steps, found more in ${place.split('[')[0]}`);
  if (!isObject(part)) throw mismatch(path, place, 'an object or null', show(part));
  if (typeof part.type !== 'string') throw mismatch(path, `${place}.type`, 'a name', show(part.type));
  const { pattern } = part;
  if ((pattern !== undefined || part.type === 'Replace' || part.type === 'Split') && !isPattern(pattern)) {
    throw mismatch(path, `${place}.pattern`, 'a String or a Regex', show(pattern));
  }
  for (const list of ['normalizers', 'pretokenizers', 'processors', 'decoders']) {
    const steps = part[list];
    if (Array.isArray(steps)) for (const [index, step] of steps.entries()) checkPart(step, `${place}.${list}[${index}]`, path, depth + 1);
  }
}

function isPattern(pattern: unknown): boolean {
  if (!isObject(pattern)) return false;
  return typeof pattern.Regex === 'string' || (pattern.Regex === undefined && typeof pattern.String === 'string');
}

/** A sequence of one decoder is that decoder; the library tells only the outermost one which tokens were added. */
function unwrap(decoder: JsonObject | null): JsonObject | null {
  if (decoder?.type !== 'Sequence' || !Array.isArray(decoder.decoders) || decoder.decoders.length !== 1) return decoder;
  return unwrap(decoder.decoders[0] as JsonObject | null);
}
