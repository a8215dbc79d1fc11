const KEEP_BOM = new TextDecoder('utf-8', { ignoreBOM: true });
const DROP_BOM = new TextDecoder('utf-8');

/**
 * Decodes UTF-8 that comes in parts of any size to the text that the whole would give: invalid bytes become
 * U+FFFD, and only a character that may still become complete (at most 3 bytes) is held back.
 */
export class Utf8Stream {
  readonly #dropBom: boolean;
  #held: readonly number[] = [];
  #begun = false;

  constructor({ dropBom = false }: { dropBom?: boolean } = {}) {
    this.#dropBom = dropBom;
  }

  push(bytes: readonly number[]): string {
    const all = this.#held.length === 0 ? bytes : [...this.#held, ...bytes];
    const end = all.length - incompleteTail(all);
    this.#held = all.slice(end);
    return this.#decode(all.slice(0, end));
  }

  /** What is left when no more bytes will come: U+FFFD for an incomplete character. */
  flush(): string {
    const rest = this.#held;
    this.#held = [];
    return this.#decode(rest);
  }

  #decode(bytes: readonly number[]): string {
    if (bytes.length === 0) return '';
    const decoder = this.#dropBom && !this.#begun ? DROP_BOM : KEEP_BOM;
    this.#begun = true;
    return decoder.decode(Uint8Array.from(bytes));
  }
}

/** How many bytes at the end are the beginning of a valid character that is not complete. */
function incompleteTail(bytes: readonly number[]): number {
  for (let count = 1; count <= 3 && count <= bytes.length; count++) {
    const byte = bytes[bytes.length - count]!;
    if (byte >= 0x80 && byte < 0xc0) continue; // a continuation: its first byte is further left
    if (count >= lengthFrom(byte)) return 0;
    return count === 1 || secondFits(byte, bytes[bytes.length - count + 1]!) ? count : 0;
  }
  return 0;
}

/** The length of a character by its first byte; 0 for a byte that starts none. */
function lengthFrom(byte: number): number {
  if (byte < 0x80) return 1;
  if (byte < 0xc2 || byte > 0xf4) return 0;
  return byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

/** Whether a continuation may be the second byte after `first`: no overlong forms, surrogates or values past U+10FFFF. */
function secondFits(first: number, second: number): boolean {
  if (first === 0xe0) return second >= 0xa0;
  if (first === 0xed) return second < 0xa0;
  if (first === 0xf0) return second >= 0x90;
  if (first === 0xf4) return second < 0x90;
  return true;
}
