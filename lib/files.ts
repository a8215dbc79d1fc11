import { open, readFile, stat, type FileHandle } from 'node:fs/promises';
import { SpkvError } from './errors.js';

/** Longest text file (JSON, template) that is read whole, in bytes. */
export const MAX_TEXT_BYTES = 256 * 1024 * 1024;

/** A 'FILE' error in the one form of all file errors: which file, then what is wrong with it. */
export function fileError(path: string, problem: string, cause?: unknown): SpkvError {
  return new SpkvError('FILE', `${path}: ${problem}`, cause === undefined ? undefined : { cause });
}

/** A 'FILE' error that says what the file should hold at a place and what it holds instead. */
export function mismatch(path: string, place: string, expected: string, found: string): SpkvError {
  return fileError(path, `expected ${expected} for ${place}, found ${found}`);
}

/** A 'FILE' error for what the operating system refused. */
export function failure(path: string, done: string, error: unknown): SpkvError {
  const code = (error as NodeJS.ErrnoException).code ?? String(error);
  return fileError(path, `could not be ${done} (${code}${code === 'ENOSPC' || code === 'EDQUOT' ? ': the disk is full' : ''})`, error);
}

/** Whether `error` says that a file does not exist. */
function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

/** The kind of thing at `path`: 'file', 'directory', 'other', or undefined where there is nothing. Links are followed. */
export async function kindOf(path: string): Promise<'file' | 'directory' | 'other' | undefined> {
  try {
    const stats = await stat(path);
    return stats.isFile() ? 'file' : stats.isDirectory() ? 'directory' : 'other';
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw failure(path, 'looked at', error);
  }
}

/** Refuses `path` unless it is a regular file: opening a pipe or a device could wait for ever. */
async function requireFile(path: string): Promise<void> {
  const kind = await kindOf(path);
  if (kind === undefined) throw fileError(path, 'expected a file, found nothing');
  if (kind !== 'file') throw fileError(path, `expected a file, found ${kind === 'directory' ? 'a directory' : 'something else'}`);
}

/** Opens a regular file for reading, hands it to `use`, and closes it. Errors: 'FILE'. */
export async function withFile<T>(path: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  await requireFile(path);
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    throw failure(path, 'opened', error);
  }
  try {
    return await use(file);
  } catch (error) {
    if (error instanceof SpkvError) throw error;
    throw failure(path, 'read', error);
  } finally {
    await file.close();
  }
}

/** The text of a UTF-8 file, or undefined if there is no such file. Errors: 'FILE'. */
export async function readOptionalText(path: string): Promise<string | undefined> {
  if ((await kindOf(path)) === undefined) return undefined;
  return readText(path);
}

/** The text of a UTF-8 file. Errors: 'FILE'. */
export async function readText(path: string): Promise<string> {
  await requireFile(path);
  let bytes: Uint8Array;
  try {
    const { size } = await stat(path);
    if (size > MAX_TEXT_BYTES) throw mismatch(path, 'its size', `at most ${MAX_TEXT_BYTES} bytes`, `${size}`);
    bytes = await readFile(path);
  } catch (error) {
    if (error instanceof SpkvError) throw error;
    throw failure(path, 'read', error);
  }
  return decodeText(bytes, path);
}

/** `bytes` as UTF-8 text; a byte order mark stays in it. Errors: 'FILE' where the bytes are not UTF-8. */
export function decodeText(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw fileError(path, 'expected UTF-8 text, found other bytes', error);
  }
}
