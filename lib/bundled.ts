import { fileURLToPath } from 'node:url';

// lib and dist lie equally deep, so the package is found from either.
const models = new URL('../models/', import.meta.url);

/** The directory of the model that comes with the package, see {@link loadModel}. */
export const BUNDLED_MODEL = fileURLToPath(new URL('code-6m-spkv', models));
/** The source file that comes with the package, to try it with. */
export const SAMPLE_FILE = fileURLToPath(new URL('sample.py', models));
