import type { SpkvError } from '../../errors.js';
import { fileError, withFile } from '../../files.js';
import { isObject, show } from '../../json.js';
import type { SourceFile } from './sources.js';

/** Bytes that are read and tokenised at a time: small enough not to hold up the event loop. */
const BLOCK_BYTES = 1 << 16;
/** Longest line, or stretch of text without a place to cut it. */
const MAX_LINE_BYTES = 1 << 26;

const NEWLINE = 10;
/** First bytes of the characters that are white space outside ASCII. */
const SPACES = [0xc2, 0xe1, 0xe2, 0xe3, 0xef];

/** Where reading goes on in a file. */
export interface Cursor {
  /** Bytes before it. */
  offset: number;
  /** Its line, counted from 1. */
  line: number;
}

/** A document, or a part of one, that came from a file. */
export interface Piece {
  content: string | readonly number[];
  /** The line on which it begins. */
  line: number;
  /** Whether a document begins with it. */
  first: boolean;
  /** Whether the document ends with it. */
  last: boolean;
}

/** What was read in one go: whole pieces, and where to read on. */
export interface Block {
  pieces: Piece[];
  next: Cursor;
  end: boolean;
}

/**
 * Reads a file from `from` on: a text file is one document, in pieces that end with a line; every line of a JSONL
 * file is one. `onBad` is told of data that cannot be used, and may throw; otherwise that data is left out.
 * Errors: FILE, also where the file is no longer as long as it was when it was found.
 */
export async function* readBlocks(file: SourceFile, from: Cursor, onBad: (error: SpkvError) => void): AsyncGenerator<Block> {
  let { offset, line } = from;
  for await (const bytes of slices(file, offset)) {
    const begins = offset === 0;
    offset += bytes.length;
    const end = offset === file.bytes;
    const pieces =
      file.format === 'jsonl'
        ? jsonPieces(file, bytes, line, onBad)
        : [{ content: decode(file, bytes, line, begins, onBad) ?? '', line, first: begins, last: end }];
    line += count(bytes, NEWLINE);
    yield { pieces, next: { offset, line }, end };
  }
}

/** The rest of a file from `offset` on, in slices that end between two lines. Where they end depends on `offset` alone. */
async function* slices(file: SourceFile, offset: number): AsyncGenerator<Buffer> {
  const cut = file.format === 'text' ? textCut : lineCut;
  let length = BLOCK_BYTES;
  for (let position = offset; position < file.bytes; ) {
    const bytes = await readAt(file.path, position, Math.min(length, file.bytes - position));
    const end = position + bytes.length === file.bytes ? bytes.length : cut(bytes);
    if (end === 0 && length >= MAX_LINE_BYTES) throw fileError(file.path, `expected lines of at most ${MAX_LINE_BYTES} bytes, found a longer one`);
    length = end === 0 ? 2 * length : BLOCK_BYTES;
    position += end;
    if (end > 0) yield bytes.subarray(0, end);
  }
}

/** The file is not held open between two calls. */
async function readAt(path: string, position: number, length: number): Promise<Buffer> {
  return withFile(path, async (file) => {
    const buffer = Buffer.alloc(length);
    for (let filled = 0; filled < length; ) {
      const { bytesRead } = await file.read(buffer, filled, length - filled, position + filled);
      if (bytesRead === 0) throw fileError(path, `expected ${length} bytes at ${position}, found the end: the file was changed while it was read`);
      filled += bytesRead;
    }
    return buffer;
  });
}

/** After the last whole line. */
function lineCut(bytes: Buffer): number {
  return bytes.lastIndexOf(NEWLINE) + 1;
}

/** Before the last line that does not begin with white space: no tokenizer joins tokens across such a place. */
function textCut(bytes: Buffer): number {
  for (let at = bytes.length - 1; at > 0; at--) {
    if (bytes[at - 1] === NEWLINE && bytes[at]! > 32 && !SPACES.includes(bytes[at]!)) return at;
  }
  return 0;
}

function jsonPieces(file: SourceFile, bytes: Buffer, firstLine: number, onBad: (error: SpkvError) => void): Piece[] {
  const pieces: Piece[] = [];
  let line = firstLine;
  for (let start = 0; start < bytes.length; line++) {
    const newline = bytes.indexOf(NEWLINE, start);
    const end = newline < 0 ? bytes.length : newline;
    const text = decode(file, bytes.subarray(start, end), line, line === 1, onBad);
    start = end + 1;
    if (text === undefined || text.trim() === '') continue;
    const content = recordContent(file, text, line, onBad);
    if (content !== undefined) pieces.push({ content, line, first: true, last: true });
  }
  return pieces;
}

/** The text or the token ids in one record of a JSONL file. */
function recordContent(file: SourceFile, text: string, line: number, onBad: (error: SpkvError) => void): string | number[] | undefined {
  const bad = (expected: string, found: string) => {
    onBad(fileError(`${file.path}:${line}`, `expected ${expected}, found ${found}`));
    return undefined;
  };
  let record: unknown;
  try {
    record = JSON.parse(text);
  } catch (error) {
    return bad('a JSON object', `a syntax error (${(error as Error).message})`);
  }
  if (!isObject(record)) return bad('a JSON object', show(record));
  const content = record[file.field];
  const what = `text, or token ids, in the field "${file.field}"`;
  if (content === undefined) return bad(what, `only ${Object.keys(record).slice(0, 8).map((key) => `"${key}"`).join(', ') || 'an empty object'}`);
  const ids = Array.isArray(content) && content.every((id) => Number.isSafeInteger(id) && id >= 0);
  if (!ids && typeof content !== 'string') return bad(what, show(content));
  if ((content as { length: number }).length === 0) return bad(what, 'nothing in it');
  return content as string | number[];
}

/** UTF-8 bytes as text. A byte order mark at the beginning of the file goes. */
function decode(file: SourceFile, bytes: Buffer, line: number, begins: boolean, onBad: (error: SpkvError) => void): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: !begins }).decode(bytes);
  } catch (error) {
    onBad(fileError(`${file.path}:${badLine(bytes, line)}`, 'expected UTF-8 text, found other bytes', error));
    return undefined;
  }
}

/** The first line in `bytes` that is not UTF-8. */
function badLine(bytes: Buffer, firstLine: number): number {
  let line = firstLine;
  for (let start = 0; start < bytes.length; line++) {
    const newline = bytes.indexOf(NEWLINE, start);
    const end = newline < 0 ? bytes.length : newline + 1;
    try {
      new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(start, end));
    } catch {
      return line;
    }
    start = end;
  }
  return firstLine;
}

function count(bytes: Buffer, value: number): number {
  let found = 0;
  for (let at = bytes.indexOf(value); at >= 0; at = bytes.indexOf(value, at + 1)) found++;
  return found;
}
