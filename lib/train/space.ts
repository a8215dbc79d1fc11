import { mkdir, rm, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { failure, fileError } from '../files.js';

/**
 * Refuses an output directory that cannot be written to, or whose disk has no room for two checkpoints: before hours
 * are spent on a run whose result cannot be kept. Errors: FILE.
 */
export async function checkOutput(dir: string, checkpointBytes: number, keep: number, onWarning?: (message: string) => void): Promise<void> {
  const probe = join(dir, '.writable');
  let free: number;
  try {
    await mkdir(dir, { recursive: true });
    await writeFile(probe, '');
    await rm(probe);
    const { bavail, bsize } = await statfs(dir);
    free = bavail * bsize;
  } catch (error) {
    throw failure(dir, 'written to', error);
  }
  const room = (count: number) => `${mebibytes(checkpointBytes * count)} for ${count} checkpoints`;
  if (free < 2 * checkpointBytes) throw fileError(dir, `expected room of ${room(2)} on the disk, found ${mebibytes(free)}`);
  // Those that are kept, the best one, and the one that is being written.
  if (free < (keep + 2) * checkpointBytes) onWarning?.(`${dir}: the disk has ${mebibytes(free)} free, which is less than ${room(keep + 2)}`);
}

export function mebibytes(bytes: number): string {
  return bytes < 2 ** 30 ? `${Math.ceil(bytes / 2 ** 20)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
