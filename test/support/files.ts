import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';

/** A new empty directory, removed after the tests of the file that asks for it. */
export function temporaryDirectory(): string {
  const dir = mkdtempSync(join(tmpdir(), 'spkv-test-'));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** The bytes of a .safetensors file with any header, well formed or not. */
export function rawSafetensors(header: unknown, dataBytes = 0): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, Buffer.alloc(dataBytes)]);
}

/** Ways to damage the first `length` bytes of a file: cut it, flip bits in it, or overwrite a byte. */
export function damage(length: number): fc.Arbitrary<(bytes: Buffer) => Buffer> {
  const place = fc.nat(length - 1);
  const cut = place.map((at) => (bytes: Buffer) => bytes.subarray(0, at));
  const flips = fc.array(fc.tuple(place, fc.nat(7)), { minLength: 1, maxLength: 4 }).map((list) => (bytes: Buffer) => {
    const copy = Buffer.from(bytes);
    for (const [at, bit] of list) copy[at]! ^= 1 << bit;
    return copy;
  });
  // JSON is made of few characters: these hit its structure more often than random bits do.
  const write = fc.tuple(place, fc.constantFrom(...'{}[]",:-0123456789eE.tfn\\ ')).map(([at, char]) => (bytes: Buffer) => {
    const copy = Buffer.from(bytes);
    copy[at] = char.charCodeAt(0);
    return copy;
  });
  return fc.oneof(cut, flips, write);
}
