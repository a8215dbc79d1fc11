/** A set of byte strings, from which {@link buildAutomaton} makes states. */
export type Pattern =
  /** One byte of these ranges, in rising order. */
  | { readonly kind: 'bytes'; readonly ranges: readonly Range[] }
  | { readonly kind: 'sequence'; readonly parts: readonly Pattern[] }
  /** None of no options: nothing fits. */
  | { readonly kind: 'choice'; readonly options: readonly Pattern[] }
  | { readonly kind: 'repeat'; readonly part: Pattern; readonly min: number; readonly max: number }
  /** Members in their order, some of which may be left out, and the separator between those that are there. */
  | { readonly kind: 'list'; readonly members: readonly Member[]; readonly separator: Pattern }
  /** What fits both. Neither has calls. */
  | { readonly kind: 'both'; readonly a: Pattern; readonly b: Pattern }
  /** What a rule describes, which may have calls to itself. */
  | { readonly kind: 'call'; readonly rule: number };

/** From the first to the second, both included. */
export type Range = readonly [low: number, high: number];

export interface Member {
  readonly part: Pattern;
  readonly optional: boolean;
}

/** A grammar: bodies of rules, the first of which describes the whole text. */
export type Grammar = readonly Pattern[];

export const EMPTY: Pattern = { kind: 'sequence', parts: [] };
export const NEVER: Pattern = { kind: 'choice', options: [] };

export const bytes = (...ranges: readonly Range[]): Pattern => ({ kind: 'bytes', ranges });
export const sequence = (...parts: readonly Pattern[]): Pattern => (parts.length === 1 ? parts[0]! : { kind: 'sequence', parts });
export const choice = (...options: readonly Pattern[]): Pattern => (options.length === 1 ? options[0]! : { kind: 'choice', options });
export const both = (a: Pattern, b: Pattern): Pattern => ({ kind: 'both', a, b });
export const optional = (part: Pattern): Pattern => choice(part, EMPTY);

/** `part` from `min` to `max` times; never where that is no range. */
export function repeat(part: Pattern, min = 0, max = Infinity): Pattern {
  if (min > max) return NEVER;
  return min === 1 && max === 1 ? part : { kind: 'repeat', part, min, max };
}

/** The bytes of a text in UTF-8. */
export function literal(text: string): Pattern {
  return sequence(...Array.from(Buffer.from(text), (byte) => bytes([byte, byte])));
}

/** Gathers the rules of a grammar. Rules are known by a key, so that what is the same is one rule, and may be recursive. */
export class Rules {
  readonly #bodies: Pattern[] = [NEVER];
  readonly #known = new Map<string, Pattern>();

  /** A call of the rule `key`, whose body is made when it is first asked for. */
  call(key: string, body: () => Pattern): Pattern {
    const known = this.#known.get(key);
    if (known) return known;
    const call: Pattern = { kind: 'call', rule: this.#bodies.length };
    this.#known.set(key, call);
    this.#bodies.push(NEVER);
    this.#bodies[call.rule] = body();
    return call;
  }

  /** The grammar of a text that `whole` describes. */
  grammar(whole: Pattern): Grammar {
    return [whole, ...this.#bodies.slice(1)];
  }
}
