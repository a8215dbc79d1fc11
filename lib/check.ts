import { SpkvError } from './errors.js';

/** The one sentence form of argument errors: what was expected, for which argument, what came instead. */
export function invalid(expected: string, name: string, received: unknown): SpkvError {
  return new SpkvError('INVALID_ARGUMENT', `Expected ${expected} for ${name} but received ${describe(received)}`);
}

/** A short, safe rendering of any value for an error message. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return value.length > 60 ? `"${value.slice(0, 57)}..."` : `"${value}"`;
  if (typeof value === 'function') return 'a function';
  if (value === null || typeof value !== 'object') return String(value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (ArrayBuffer.isView(value)) return `a ${value.constructor.name} of ${value.byteLength} bytes`;
  return `an object of type ${value.constructor?.name ?? 'Object'}`;
}

export function isInteger(value: unknown, min: number, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
}

export function isFiniteNumber(value: unknown, min = -Infinity, max = Infinity): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= min && value <= max;
}

/** Returns `value` if it is an integer in [min, max], else throws naming `name`. */
export function integer(value: unknown, name: string, min = 0, max = Number.MAX_SAFE_INTEGER): number {
  if (isInteger(value, min, max)) return value;
  const range = max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`;
  throw invalid(range, name, value);
}

/** Returns `value` if it is a finite number in [min, max], else throws naming `name`. */
export function number(value: unknown, name: string, min = -Infinity, max = Infinity): number {
  if (isFiniteNumber(value, min, max)) return value;
  const range =
    min === -Infinity && max === Infinity
      ? 'a finite number'
      : max === Infinity
        ? `a number of at least ${min}`
        : `a number from ${min} to ${max}`;
  throw invalid(range, name, value);
}

/** Returns `value` if it is a string, else throws naming `name`. */
export function string(value: unknown, name: string): string {
  if (typeof value !== 'string') throw invalid('a string', name, value);
  return value;
}

/** Returns `value` if it is true or false, else throws naming `name`. */
export function boolean(value: unknown, name: string): boolean {
  if (typeof value !== 'boolean') throw invalid('true or false', name, value);
  return value;
}

/** Returns `value` if it is a function or undefined, else throws naming `name`. */
export function callback<T>(value: T | undefined, name: string): T | undefined {
  if (value === undefined || typeof value === 'function') return value;
  throw invalid('a function', name, value);
}

/** Returns `value` if it is an AbortSignal, of any realm, or undefined; else throws naming `name`. */
export function abortSignal(value: AbortSignal | undefined, name: string): AbortSignal | undefined {
  if (value === undefined || (typeof value?.throwIfAborted === 'function' && typeof value.addEventListener === 'function')) return value;
  throw invalid('an AbortSignal', name, value);
}

/** Returns `value` if it is one of `choices`, else throws with the nearest right one. */
export function oneOf<T extends string>(value: unknown, name: string, choices: readonly T[]): T {
  if (choices.includes(value as T)) return value as T;
  const hint = typeof value === 'string' ? nearest(value, choices) : undefined;
  throw new SpkvError(
    'INVALID_ARGUMENT',
    `Expected one of ${choices.join(', ')} for ${name} but received ${describe(value)}${hint ? `; did you mean "${hint}"?` : ''}`,
  );
}

/**
 * Refuses anything but an object whose keys are all in `known`: an option that is not honoured is an error,
 * never ignored. Returns an empty object for undefined.
 */
export function options<T extends object>(value: T | undefined, name: string, known: readonly (keyof T & string)[]): Partial<T> {
  if (value === undefined) return {};
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw invalid('an object', name, value);
  for (const key of Object.keys(value)) {
    if ((known as readonly string[]).includes(key)) continue;
    const hint = nearest(key, known);
    throw new SpkvError(
      'INVALID_ARGUMENT',
      `Unknown option "${key}" in ${name}${hint ? `; did you mean "${hint}"?` : ''} Known options: ${known.join(', ')}`,
    );
  }
  return value;
}

/** The choice nearest to `word` by edit distance, if it is near enough to be a likely slip. */
export function nearest(word: string, choices: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const choice of choices) {
    const distance = editDistance(word.toLowerCase(), choice.toLowerCase());
    if (distance < bestDistance) {
      best = choice;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      current[j] = Math.min(previous[j]! + 1, current[j - 1]! + 1, substitute);
    }
    previous = current;
  }
  return previous[b.length]!;
}
