import { isObject } from '../json.js';
import type { TokenizerFile } from './tokenizer-file.js';

/** GPT-2's characters for bytes: printable ones stand for themselves, the others are counted up from U+0100. */
export const BYTES: ReadonlyMap<string, number> = new Map(
  (function* () {
    let others = 0;
    for (let byte = 0; byte < 256; byte++) {
      const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
      yield [String.fromCharCode(printable ? byte : 0x100 + others++), byte] as const;
    }
  })(),
);

/** Parts of a tokenizer.json that change nothing between text and bytes. */
const PLAIN = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };

/**
 * The token of every byte, of a tokenizer to which text is nothing but its bytes: no merges, no special tokens, no
 * normalisation. Undefined for any other. Looking bytes up is many times faster than the general way.
 */
export function byteTokens({ json, addedTokens, wordSuffix }: TokenizerFile): Uint32Array | undefined {
  const { model, normalizer, pre_tokenizer: split, post_processor } = json;
  if (!isObject(model) || !isObject(split) || model.type !== 'BPE' || normalizer !== null || post_processor !== null) return undefined;
  const plain = Object.entries(PLAIN).every(([field, value]) => split[field] === value);
  if (!plain || addedTokens.length > 0 || wordSuffix !== '' || (model.merges as unknown[]).length > 0) return undefined;
  const vocabulary = new Map(Object.entries(model.vocab as Record<string, number>));
  const tokens = Array.from(BYTES.keys(), (char) => vocabulary.get(char));
  return tokens.includes(undefined) ? undefined : Uint32Array.from(tokens as number[]);
}

export function encodeBytes(text: string, tokens: Uint32Array): number[] {
  const bytes = Buffer.from(text);
  const ids = new Array<number>(bytes.length);
  for (let i = 0; i < bytes.length; i++) ids[i] = tokens[bytes[i]!]!;
  return ids;
}
