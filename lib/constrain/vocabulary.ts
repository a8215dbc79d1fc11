import { SpkvError } from '../errors.js';
import { planSteps } from '../text/decoder-steps.js';
import { bytesOf } from '../text/token-bytes.js';
import type { Tokenizer } from '../text/tokenizer.js';

/** Tokens as bytes, and as a tree of what they begin with. Plain arrays, so that it can be sent between threads. */
export interface Spelling {
  /** Bytes of token t: offsets[t] to offsets[t + 1] of `bytes`; none for tokens that stand for no text. */
  offsets: Int32Array;
  bytes: Uint8Array;
  /** The tree in the order in which it is walked: a node, then what is below it. Node 0 is the root. */
  tree: {
    /** The last byte of a node's path, and how many bytes that has. */
    byte: Uint8Array;
    depth: Uint16Array;
    /** The node after those below. */
    end: Int32Array;
    /** Tokens that end at node n: tokenStarts[n] to tokenStarts[n + 1] of `tokens`. */
    tokenStarts: Int32Array;
    tokens: Int32Array;
  };
}

/** What tokens are within a text, and at its beginning: some tokenizers leave out a space there. */
export interface Vocabulary {
  /** Of the model: ids past the tokenizer's stand for no text. */
  size: number;
  within: Spelling;
  first: Spelling;
}

/** `silent` are tokens that are not text, but its end. Errors: UNSUPPORTED where tokens have no bytes of their own. */
export function readVocabulary(tokenizer: Tokenizer | undefined, size: number, silent: ReadonlySet<number>): Vocabulary {
  if (!tokenizer) throw new SpkvError('UNSUPPORTED', 'A constraint needs text: the model has no tokenizer.json');
  const { decoder, wordSuffix } = tokenizer;
  if (wordSuffix !== '' || (decoder !== null && decoder.type !== 'ByteLevel' && !planSteps(decoder))) {
    throw new SpkvError('UNSUPPORTED', 'A constraint needs tokens that are text by themselves; those of this tokenizer depend on what is around them');
  }
  const known = Array.from({ length: Math.min(size, tokenizer.vocabSize) }, (_, id) => (silent.has(id) ? undefined : bytesOf(tokenizer, id)));
  let same = true;
  const first = known.map((bytes, id) => {
    if (!bytes || decoder?.type === 'ByteLevel') return bytes;
    const text = Buffer.from(tokenizer.decode([id]));
    // Part of a character is no text yet.
    if (text.equals(bytes) || text.includes('\ufffd')) return bytes;
    same = false;
    return text;
  });
  const within = spell(known, size);
  return { size, within, first: same ? within : spell(first, size) };
}

/** `tokens` have no bytes where they are undefined or empty, which no text would tell from its end. */
export function spell(tokens: readonly (Uint8Array | undefined)[], size: number): Spelling {
  const offsets = new Int32Array(size + 1);
  for (let id = 0; id < size; id++) offsets[id + 1] = offsets[id]! + (tokens[id]?.length ?? 0);
  const bytes = new Uint8Array(offsets[size]!);
  for (const [id, token] of tokens.entries()) if (token) bytes.set(token, offsets[id]!);
  const sorted = [...tokens.keys()].filter((id) => tokens[id] && tokens[id].length > 0);
  sorted.sort((a, b) => Buffer.compare(tokens[a]!, tokens[b]!) || a - b);
  const tree = { byte: [0], depth: [0], end: [0], tokenStarts: [0] };
  /** The nodes from the root to the last one. */
  const path = [0];
  let before: Uint8Array = new Uint8Array(0);
  const close = (length: number) => {
    while (path.length > length + 1) tree.end[path.pop()!] = tree.byte.length;
  };
  for (const [place, id] of sorted.entries()) {
    const token = tokens[id]!;
    let common = 0;
    while (common < before.length && before[common] === token[common]) common++;
    close(common);
    for (let i = common; i < token.length; i++) {
      tree.byte.push(token[i]!);
      tree.depth.push(i + 1);
      tree.end.push(0);
      tree.tokenStarts.push(place);
      path.push(tree.byte.length - 1);
    }
    before = token;
  }
  close(0);
  tree.end[0] = tree.byte.length;
  return {
    offsets,
    bytes,
    tree: {
      byte: Uint8Array.from(tree.byte), depth: Uint16Array.from(tree.depth), end: Int32Array.from(tree.end),
      tokenStarts: Int32Array.from([...tree.tokenStarts, sorted.length]), tokens: Int32Array.from(sorted),
    },
  };
}
