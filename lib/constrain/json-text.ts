// JSON as text. Between its parts there may be a space, or a line break with an indentation: enough for every usual style,
// and no model can write white space for ever.
import { JSON_CHARACTER, PLAIN, writeUtf8 } from './characters.js';
import { charactersOf, complement, intersection } from './code-points.js';
import { integerPattern, numberPattern } from './numbers.js';
import { bytes, choice, EMPTY, literal, type Member, NEVER, optional, type Pattern, repeat, type Rules, sequence } from './patterns.js';

const INDENT = 32;
const SPACE = optional(literal(' '));
const QUOTE = literal('"');

/** JSON that is made of rules which all schemas share. */
export class JsonText {
  readonly #rules: Rules;

  constructor(rules: Rules) {
    this.#rules = rules;
  }

  get string(): Pattern {
    return this.#rules.call('a string', () => sequence(QUOTE, repeat(JSON_CHARACTER), QUOTE));
  }

  get number(): Pattern {
    return this.#rules.call('a number', () => numberPattern({}));
  }

  get integer(): Pattern {
    return this.#rules.call('an integer', () => integerPattern({}));
  }

  /** Any value. */
  get value(): Pattern {
    return this.#rules.call('a value', () => choice(this.anyObject, this.anyArray, this.string, this.number, literal('true'), literal('false'), literal('null')));
  }

  get anyObject(): Pattern {
    return this.#rules.call('an object', () => this.object([], { value: this.value, apartFrom: [] }));
  }

  get anyArray(): Pattern {
    return this.#rules.call('an array', () => this.array([], this.value, 0, Infinity));
  }

  /** A string of so many characters. */
  sized(min: number, max: number): Pattern {
    return this.#rules.call(`a string of ${min} to ${max}`, () => sequence(QUOTE, repeat(JSON_CHARACTER, min, max), QUOTE));
  }

  /** An object with these members in their order, then any number of others, whose names are not among `apartFrom`. */
  object(members: readonly { name: string; value: Pattern; optional: boolean }[], others?: { value: Pattern; apartFrom: readonly string[] }): Pattern {
    const list: Member[] = members.map(({ name, value, optional: may }) => ({ part: this.#member(constant(name), value), optional: may }));
    if (others) {
      // Without escapes, so that no name is written in two ways.
      const name = others.apartFrom.length === 0 ? this.string : sequence(QUOTE, nameApartFrom(others.apartFrom), QUOTE);
      const other = this.#member(name, others.value);
      list.push({ part: sequence(other, repeat(sequence(this.#comma, other))), optional: true });
    }
    const filled = sequence({ kind: 'list', members: list, separator: this.#comma }, this.#gap);
    return sequence(literal('{'), this.#gap, orNothing(filled, list.every((member) => member.optional)), literal('}'));
  }

  /** An array with these elements first, then others like `rest`; from `min` to `max` in all. */
  array(first: readonly Pattern[], rest: Pattern, min: number, max: number): Pattern {
    const more = repeat(sequence(this.#comma, rest), Math.max(0, min - Math.max(1, first.length)), max - Math.max(1, first.length));
    const elements = first.length > 0 ? first : [rest];
    const filled = elements.reduceRight<Pattern>((after, element, i) => {
      const here = i < max ? sequence(i > 0 ? this.#comma : EMPTY, element, after) : NEVER;
      return i > 0 && i >= min ? optional(here) : here;
    }, more);
    return sequence(literal('['), this.#gap, orNothing(sequence(filled, this.#gap), min === 0), literal(']'));
  }

  #member(name: Pattern, value: Pattern): Pattern {
    return sequence(name, literal(':'), SPACE, value);
  }

  get #gap(): Pattern {
    return optional(this.#rules.call('a gap', () => choice(literal(' '), sequence(literal('\n'), repeat(bytes([0x09, 0x09], [0x20, 0x20]), 0, INDENT)))));
  }

  get #comma(): Pattern {
    return sequence(literal(','), this.#gap);
  }
}

function orNothing(part: Pattern, may: boolean): Pattern {
  return may ? optional(part) : part;
}

/** A value as JSON.stringify writes it. */
export function constant(value: unknown): Pattern {
  // A byte order mark is dropped by some decoders.
  return literal(JSON.stringify(value).replaceAll('\ufeff', '\\ufeff'));
}

/** Names in characters that are not escaped, other than these. */
function nameApartFrom(names: readonly string[]): Pattern {
  const any = repeat(writeUtf8(PLAIN));
  const first = new Map<string, string[]>();
  for (const name of names) {
    const [char] = name;
    if (char !== undefined) first.set(char, [...(first.get(char) ?? []), name.slice(char.length)]);
  }
  const others = intersection(complement(charactersOf([...first.keys()].join(''))), PLAIN);
  const same = [...first].flatMap(([char, rests]) => {
    const set = intersection(charactersOf(char), PLAIN);
    return set.length === 0 ? [] : [sequence(writeUtf8(set), nameApartFrom(rests))];
  });
  return choice(sequence(writeUtf8(others), any), ...same, ...(names.includes('') ? [] : [EMPTY]));
}
