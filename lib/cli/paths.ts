import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';

// lib/cli and dist/cli lie equally deep, so the package is found from either.
const root = new URL('../../', import.meta.url);

/** The model that comes with the package. */
export const BUNDLED_MODEL = fileURLToPath(new URL('models/code-6m-spkv', root));
/** The source file that comes with the package, for measurements and the demo. */
export const SAMPLE_FILE = fileURLToPath(new URL('models/sample.py', root));
export const BUILD_SCRIPT = new URL('scripts/build-native.mjs', root).href;
export const BUILD_CUDA_SCRIPT = new URL('scripts/build-cuda.mjs', root).href;

/** A path as people would type it: from the working directory where that is shorter. */
export function shortPath(path: string): string {
  const near = relative(process.cwd(), path);
  return near !== '' && near.length < path.length ? near : path;
}
