import { type AST, RegExpParser } from '@eslint-community/regexpp';
import { invalid } from '../check.js';
import { SpkvError } from '../errors.js';
import type { Write } from './characters.js';
import { ALL, charactersOf, type CodePoints, complement, intersection, union } from './code-points.js';
import { choice, EMPTY, type Pattern, type Range, repeat, sequence } from './patterns.js';

/** Most repetitions that are counted out. */
const MAX_COUNT = 10_000;
const SETS = {
  any: complement(charactersOf('\n\r\u2028\u2029')),
  digit: [[0x30, 0x39]],
  word: union([[0x30, 0x39], [0x41, 0x5a], [0x61, 0x7a]], charactersOf('_')),
  space: union([[9, 13], [0x2000, 0x200a]], charactersOf(' \u00a0\u1680\u2028\u2029\u202f\u205f\u3000')),
} satisfies Record<string, CodePoints>;
const properties = new Map<string, CodePoints>();

/**
 * The texts that a regular expression describes: the syntax of JavaScript with the flag u, without what is more than
 * regular (lookaround, backreferences), word boundaries and modifiers. As a `whole` it must fit the whole text;
 * otherwise it may fit any part, as RegExp.test asks. ^ and $ may stand at the ends. `name` is for errors:
 * INVALID_ARGUMENT, UNSUPPORTED.
 */
export function regexPattern(source: string, name: string, write: Write, { whole }: { whole: boolean }): Pattern {
  return new Translator(name, write).translate(parse(source, name), whole);
}

function parse(source: string, name: string): AST.Pattern {
  try {
    return new RegExpParser().parsePattern(source, 0, source.length, { unicode: true });
  } catch (error) {
    throw invalid(`a regular expression of JavaScript with the flag u (${(error as Error).message})`, name, source);
  }
}

class Translator {
  readonly #name: string;
  readonly #write: Write;

  constructor(name: string, write: Write) {
    this.#name = name;
    this.#write = write;
  }

  translate({ alternatives }: AST.Pattern, whole: boolean): Pattern {
    const anything = repeat(this.#write(ALL));
    return choice(
      ...alternatives.map(({ elements }) => {
        const parts = [...elements];
        const anchored = { start: whole, end: whole };
        while (isAnchor(parts[0], 'start')) anchored.start = parts.shift() !== undefined;
        while (isAnchor(parts.at(-1), 'end')) anchored.end = parts.pop() !== undefined;
        return sequence(anchored.start ? EMPTY : anything, this.#sequence(parts), anchored.end ? EMPTY : anything);
      }),
    );
  }

  #sequence(elements: readonly AST.Element[]): Pattern {
    return sequence(...elements.map((element) => this.#element(element)));
  }

  #element(element: AST.Element): Pattern {
    switch (element.type) {
      case 'Character':
      case 'CharacterSet':
      case 'CharacterClass':
        return this.#write(this.#set(element));
      case 'Group':
        if (element.modifiers) throw this.#unsupported('modifiers of flags', element);
        return this.#alternatives(element.alternatives);
      case 'CapturingGroup':
        return this.#alternatives(element.alternatives);
      case 'Quantifier': {
        const { min, max } = element;
        if (min > MAX_COUNT || (max > MAX_COUNT && max !== Infinity)) throw this.#unsupported(`a count above ${MAX_COUNT}`, element);
        return repeat(this.#element(element.element), min, max);
      }
      case 'Assertion':
        if (element.kind === 'start' || element.kind === 'end') throw this.#unsupported(`"${element.raw}" other than at an end of the whole expression`, element);
        throw this.#unsupported(element.kind === 'word' ? 'a word boundary' : `a ${element.kind}`, element);
      case 'Backreference':
        throw this.#unsupported('a backreference', element);
      default:
        throw this.#unsupported('this', element);
    }
  }

  #alternatives(alternatives: readonly AST.Alternative[]): Pattern {
    return choice(...alternatives.map(({ elements }) => this.#sequence(elements)));
  }

  #set(element: AST.CharacterClassElement | AST.CharacterClass | AST.CharacterSet): CodePoints {
    switch (element.type) {
      case 'Character':
        return [[element.value, element.value]];
      case 'CharacterClassRange':
        return [[element.min.value, element.max.value]];
      case 'CharacterClass': {
        const set = union(...element.elements.map((each) => this.#set(each as AST.CharacterClassElement)));
        return element.negate ? complement(set) : set;
      }
      case 'CharacterSet': {
        if (element.kind === 'any') return SETS.any;
        const set = element.kind === 'property' ? propertySet(element) : SETS[element.kind];
        return element.negate ? complement(set) : set;
      }
      default:
        throw this.#unsupported('this', element);
    }
  }

  #unsupported(what: string, { raw }: { raw: string }): SpkvError {
    return new SpkvError('UNSUPPORTED', `The regular expression ${this.#name} has ${what}, which is not supported: ${raw}`);
  }
}

function isAnchor(element: AST.Element | undefined, kind: 'start' | 'end'): boolean {
  return element?.type === 'Assertion' && element.kind === kind;
}

/** The characters of a Unicode property, as this JavaScript knows it. */
function propertySet({ key, value }: AST.UnicodePropertyCharacterSet): CodePoints {
  const name = value === null ? key : `${key}=${value}`;
  let set = properties.get(name);
  if (set) return set;
  const property = new RegExp(`\\p{${name}}`, 'u');
  const ranges: Range[] = [];
  for (const [low, high] of ALL) {
    for (let code = low; code <= high; code++) {
      if (!property.test(String.fromCodePoint(code))) continue;
      const start = code;
      while (code < high && property.test(String.fromCodePoint(code + 1))) code++;
      ranges.push([start, code]);
    }
  }
  set = intersection(union(ranges), ALL);
  properties.set(name, set);
  return set;
}
