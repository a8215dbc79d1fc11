import { describe } from './check.js';
import { fileError, readOptionalText } from './files.js';

export type JsonObject = { readonly [key: string]: unknown };

export function isObject(value: unknown): value is JsonObject {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

/** A value of a JSON file as an error message shows it: short arrays of numbers in full, the rest by {@link describe}. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value) && value.length <= 8 && value.every((item) => typeof item === 'number')) return `[${value.join(', ')}]`;
  return describe(value);
}

/**
 * Parses the text of a JSON file that must hold one object. A key written twice is refused, since JSON.parse
 * would silently take the last; that costs one more pass, so files with large tables can leave it out.
 * Errors: 'FILE', naming `path`.
 */
export function parseJsonObject(text: string, path: string, options: { duplicates?: 'refuse' | 'allow' } = {}): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw fileError(path, `expected JSON, found a syntax error (${(error as Error).message})`, error);
  }
  if (!isObject(value)) throw fileError(path, `expected a JSON object, found ${show(value)}`);
  if (options.duplicates !== 'allow') {
    const key = duplicateKey(text);
    if (key !== undefined) throw fileError(path, `expected every key once, found ${describe(key)} twice in one object`);
  }
  return value;
}

/** Reads and parses a JSON file that must hold one object; undefined if there is no such file. Errors: 'FILE'. */
export async function readOptionalJson(path: string, options: { duplicates?: 'refuse' | 'allow' } = {}): Promise<JsonObject | undefined> {
  const text = await readOptionalText(path);
  return text === undefined ? undefined : parseJsonObject(text, path, options);
}

/**
 * The first key that some object in `text` holds twice, if any. `text` must be valid JSON, so that a string
 * followed by a colon is always a key and brackets always pair.
 */
export function duplicateKey(text: string): string | undefined {
  const open: Set<string>[] = []; // the keys seen so far in every object or array around the current place
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (char === '{' || char === '[') open.push(new Set());
    else if (char === '}' || char === ']') open.pop();
    else if (char === '"') {
      const start = i;
      i = stringEnd(text, start);
      if (!colonFollows(text, i + 1)) continue;
      const raw = text.slice(start + 1, i);
      // Two spellings of one key ("a" and "\u0061") are the same key.
      const key = raw.includes('\\') ? (JSON.parse(`"${raw}"`) as string) : raw;
      const keys = open.at(-1)!;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

/** The index of the quote that closes the string opened at `start`. */
function stringEnd(text: string, start: number): number {
  let i = start + 1;
  while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
  return i;
}

function colonFollows(text: string, from: number): boolean {
  let i = from;
  while (text[i] === ' ' || text[i] === '\n' || text[i] === '\r' || text[i] === '\t') i++;
  return text[i] === ':';
}
