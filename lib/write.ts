import { randomBytes } from 'node:crypto';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { SpkvError } from './errors.js';
import { failure, kindOf } from './files.js';

/** Writes a file so that at any moment it is there as a whole, old or new. Errors: FILE. */
export async function writeWhole(path: string, data: string | Uint8Array): Promise<void> {
  const temporary = beside(path, 'tmp');
  try {
    const file = await open(temporary, 'wx');
    try {
      await file.writeFile(data);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw failure(path, 'written', error);
  }
}

/**
 * Makes a directory that is there as a whole or not at all: `fill` writes to another one, which then becomes `path`.
 * One that is there is replaced. Errors: FILE; what `fill` throws.
 */
export async function writeDirectory(path: string, fill: (temporary: string) => Promise<void>): Promise<void> {
  const temporary = beside(path, 'tmp');
  try {
    await mkdir(temporary);
    await fill(temporary);
    await syncDirectory(temporary);
    if ((await kindOf(path)) !== undefined) await replace(path, temporary);
    else await rename(temporary, path);
    await syncDirectory(dirname(path));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
    const fromSystem = !(error instanceof SpkvError) && (error as NodeJS.ErrnoException | undefined)?.syscall !== undefined;
    throw fromSystem ? failure(path, 'written', error) : error;
  }
}

/** A directory cannot be renamed over another one: for a moment there is neither. */
async function replace(path: string, temporary: string): Promise<void> {
  const old = beside(path, 'old');
  await rename(path, old);
  await rename(temporary, path);
  await rm(old, { recursive: true, force: true });
}

/** A name beside `path` that nothing else has, for what is not finished or no longer wanted. */
export function beside(path: string, ending: 'tmp' | 'old'): string {
  return join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.${ending}`);
}

/** Makes sure that the names in a directory outlast a power cut. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
