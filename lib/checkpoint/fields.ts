import { isFiniteNumber, isInteger } from '../check.js';
import { SpkvError } from '../errors.js';
import { mismatch } from '../files.js';
import { isObject, show, type JsonObject } from '../json.js';

/**
 * Reads typed fields of a JSON object. null counts as missing, as in the files that transformers writes.
 * Errors: 'FILE' naming file and field where a field is missing or has the wrong type.
 */
export class Fields {
  readonly #object: JsonObject;
  readonly #prefix: string;

  constructor(
    object: JsonObject,
    readonly path: string,
    prefix = '',
  ) {
    this.#object = object;
    this.#prefix = prefix;
  }

  /** The name of a field as messages show it, such as "rope_scaling.factor". */
  label(name: string): string {
    return `"${this.#prefix}${name}"`;
  }

  /** The raw value; undefined where it is missing or null. */
  value(name: string): unknown {
    return Object.hasOwn(this.#object, name) ? (this.#object[name] ?? undefined) : undefined;
  }

  has(name: string): boolean {
    return this.value(name) !== undefined;
  }

  /** Whether the field is written at all, be it as null. */
  declares(name: string): boolean {
    return Object.hasOwn(this.#object, name);
  }

  /** An integer in [min, max]. Above `max` it is 'UNSUPPORTED': such a size is well formed but absurd. */
  integer(name: string, min: number, max: number, fallback?: number): number {
    const value = this.value(name) ?? fallback;
    if (!isInteger(value, min, Number.MAX_SAFE_INTEGER)) throw this.wrong(name, `an integer of at least ${min}`);
    if (value > max) throw this.unsupported(name, `at most ${max}`);
    return value;
  }

  /** A finite number in [min, max]; `above` makes `min` exclusive. */
  number(name: string, range: { min?: number; above?: number; max?: number }, fallback?: number): number {
    const { min = -Infinity, above = -Infinity, max = Infinity } = range;
    const value = this.value(name) ?? fallback;
    if (!isFiniteNumber(value, min, max) || value <= above) {
      const low = above > -Infinity ? ` above ${above}` : min > -Infinity ? ` of at least ${min}` : '';
      throw this.wrong(name, `a number${low}${max < Infinity ? ` of at most ${max}` : ''}`);
    }
    return value;
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.value(name) ?? fallback;
    if (typeof value !== 'boolean') throw this.wrong(name, 'true or false');
    return value;
  }

  string(name: string): string {
    const value = this.value(name);
    if (typeof value !== 'string') throw this.wrong(name, 'a string');
    return value;
  }

  /** The fields of an object within this one; undefined where it is missing. */
  child(name: string): Fields | undefined {
    const value = this.value(name);
    if (value === undefined) return undefined;
    if (!isObject(value)) throw this.wrong(name, 'an object');
    return new Fields(value, this.path, `${this.#prefix}${name}.`);
  }

  /** Token ids: a number or an array of numbers, each below `vocabSize`. Empty where the field is missing. */
  tokenIds(name: string, vocabSize: number): number[] {
    const value = this.value(name) ?? [];
    const ids = Array.isArray(value) ? value : [value];
    if (!ids.every((id) => isInteger(id, 0, vocabSize - 1))) {
      throw this.wrong(name, `token ids from 0 to ${vocabSize - 1} (a number or an array)`);
    }
    return [...new Set(ids as number[])];
  }

  /** A 'FILE' error about a field. */
  wrong(name: string, expected: string): SpkvError {
    return mismatch(this.path, this.label(name), expected, show(this.value(name)));
  }

  /** An 'UNSUPPORTED' error about a field that is well formed but not honoured. */
  unsupported(name: string, supported: string): SpkvError {
    const found = show(this.value(name));
    return new SpkvError('UNSUPPORTED', `${this.path}: ${this.label(name)} is ${found}, supported is ${supported}`);
  }
}
