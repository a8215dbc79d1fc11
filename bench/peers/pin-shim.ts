import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const SOURCE = fileURLToPath(new URL('./pin-shim.c', import.meta.url));
const LIBRARY = join(dirname(dirname(SOURCE)), '.cache', 'pin-shim.so');

/** Path of the compiled `pin-shim.c`, to be put into LD_PRELOAD; compiled when it is missing or older than its source. */
export function pinShim(): string {
  if (process.platform !== 'linux') throw new Error('Pinning the threads of llama.cpp works on Linux only');
  if (existsSync(LIBRARY) && statSync(LIBRARY).mtimeMs >= statSync(SOURCE).mtimeMs) return LIBRARY;
  mkdirSync(dirname(LIBRARY), { recursive: true });
  const partial = `${LIBRARY}.partial-${process.pid}`;
  const compiler = process.env.CC ?? 'cc';
  const { status, stderr, error } = spawnSync(compiler, ['-O2', '-shared', '-fPIC', '-o', partial, SOURCE, '-ldl', '-pthread'], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`${compiler} could not compile pin-shim.c: ${error?.message ?? stderr}`);
  renameSync(partial, LIBRARY);
  return LIBRARY;
}
