/**
 * A token as the server tells it: its text, or the name of a special one, and who keeps it.
 * @typedef {{ text?: string, special?: string, heads: string, written?: boolean }} KeptFields
 */

/**
 * What an answer is known to be so far: the text, and which layers and heads keep each token of prompt and text. A token
 * is judged when it is read, so the text is ahead by at least one token.
 */
export class Answer {
  /** @type {{ text: string, special: boolean, written: boolean, keeps: Uint8Array }[]} */
  tokens = [];
  /** The text that was written. */
  text = '';
  /** As much of it as is judged. */
  #judged = '';
  /** Tokens that have left the window, as far as they are counted in `kept`. */
  left = 0;
  /** Of those, how many each layer and head keeps. @type {Float64Array} */
  kept;
  /** How many of all tokens read each layer and head will keep. @type {Float64Array} */
  judged;

  /** @param {{ layers: number, heads: number, window: number }} geometry */
  constructor({ layers, heads, window }) {
    this.layers = layers;
    this.heads = heads;
    this.window = window;
    this.kept = new Float64Array(layers * heads);
    this.judged = new Float64Array(layers * heads);
  }

  /** @param {readonly KeptFields[]} tokens */
  read(tokens) {
    for (const { text, special, heads, written } of tokens) {
      const keeps = Uint8Array.from(this.kept, (_, list) => (Number.parseInt(heads[list >> 2] ?? '0', 16) >> (3 - (list & 3))) & 1);
      this.tokens.push({ text: special ?? text ?? '', special: special !== undefined, written: written === true, keeps });
      if (written) this.#judged += text ?? '';
      add(this.judged, keeps);
    }
    for (; this.left < this.tokens.length - this.window; this.left++) add(this.kept, this.#keeps(this.left));
  }

  /** What was written and is not judged yet. */
  get tail() {
    // The first word of an answer may come without the space that it has in the text.
    const space = Number(this.#judged.startsWith(' ') && !this.text.startsWith(' '));
    return this.text.slice(Math.max(0, this.#judged.length - space));
  }

  /** The share that a layer and head keeps: of the tokens that left the window, or, while none has, of all. @param {number} list */
  share(list) {
    if (this.tokens.length === 0) return Number.NaN;
    return this.left > 0 ? this.kept[list] / this.left : this.judged[list] / this.tokens.length;
  }

  /** The same over all layers and heads. */
  get density() {
    return mean(Array.from(this.kept, (_, list) => this.share(list)));
  }

  /** Pairs that are held, and those that a dense cache would hold. */
  get pairs() {
    const lists = this.kept.length;
    const window = lists * Math.min(this.window, this.tokens.length);
    return { held: this.kept.reduce((sum, value) => sum + value, window), dense: lists * this.tokens.length };
  }

  /** The share of layers and heads that keep a token, or whether one does. @param {number} token @param {number | undefined} list */
  keptBy(token, list) {
    const keeps = this.#keeps(token);
    return list === undefined ? mean(keeps) : keeps[list];
  }

  /** @param {number} token */
  #keeps(token) {
    return this.tokens[token].keeps;
  }
}

/** @param {Float64Array} sums @param {Uint8Array} values */
function add(sums, values) {
  for (const [i, value] of values.entries()) sums[i] += value;
}

/** @param {ArrayLike<number>} values */
function mean(values) {
  return Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;
}
