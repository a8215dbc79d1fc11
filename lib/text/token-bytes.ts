import { BYTES } from './byte-level.js';
import type { Tokenizer } from './tokenizer.js';

/** What a token adds to a text in UTF-8, where it may be part of a character; undefined if decoding leaves it out. */
export function bytesOf(tokenizer: Tokenizer, id: number): Uint8Array | undefined {
  const token = tokenizer.spoken(id);
  if (token === undefined) return undefined;
  if (tokenizer.isAdded(token)) return Buffer.from(token);
  if (tokenizer.decoder?.type === 'ByteLevel') return Uint8Array.from(token, (char) => BYTES.get(char) ?? 0);
  const byte = /^<0x([0-9A-F]{2})>$/.exec(token)?.[1];
  if (byte !== undefined) return Uint8Array.of(Number.parseInt(byte, 16));
  // At the beginning of a text it may be written without its space.
  return Buffer.from(tokenizer.decode([id, id]).slice(tokenizer.decode([id]).length));
}
