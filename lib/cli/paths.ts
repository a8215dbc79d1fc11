import { relative } from 'node:path';

// lib/cli and dist/cli lie equally deep, so the package is found from either.
const root = new URL('../../', import.meta.url);

export const BUILD_SCRIPT = new URL('scripts/build-native.mjs', root).href;
export const BUILD_CUDA_SCRIPT = new URL('scripts/build-cuda.mjs', root).href;

/** A path as people would type it: from the working directory where that is shorter. */
export function shortPath(path: string): string {
  const near = relative(process.cwd(), path);
  return near !== '' && near.length < path.length ? near : path;
}
