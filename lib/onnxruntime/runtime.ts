import { existsSync, readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { SpkvError } from '../errors.js';

/** Which releases have what spkv uses: see the peer dependency in package.json. */
const OLDEST = [1, 20] as const;

/** An installed onnxruntime-node. */
export interface Runtime {
  dir: string;
  version: string;
  /** The shared library that it brings for this platform; undefined where there is none. */
  library: string | undefined;
}

/** Finds the onnxruntime-node that is installed where `from` lies: beside spkv. Errors: UNSUPPORTED where it is missing or too old. */
export async function findRuntime(from = import.meta.url): Promise<Runtime> {
  const path = packagePath(from);
  const { version } = JSON.parse(await readFile(path, 'utf8')) as { version: string };
  const dir = dirname(path);
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1])) {
    throw new SpkvError('UNSUPPORTED', `onnxruntime-node ${version} in ${dir} is too old: spkv needs ${OLDEST.join('.')} or newer. Install it with: npm install onnxruntime-node@latest`);
  }
  return { dir, version, library: findLibrary(dir) };
}

function packagePath(from: string): string {
  try {
    return createRequire(from).resolve('onnxruntime-node/package.json');
  } catch (error) {
    throw new SpkvError('UNSUPPORTED', 'Exported models need the package onnxruntime-node, which is not installed; install it with: npm install onnxruntime-node', { cause: error });
  }
}

/** bin/napi-v6/linux/x64/libonnxruntime.so.1 and the like. */
function findLibrary(dir: string): string | undefined {
  const bin = join(dir, 'bin');
  if (!existsSync(bin)) return undefined;
  for (const binding of readdirSync(bin)) {
    const folder = join(bin, binding, process.platform, process.arch);
    const name = existsSync(folder) ? readdirSync(folder).find((file) => /^libonnxruntime\.(so\.1|1\.dylib|\d[\d.]*\.dylib)$/.test(file)) : undefined;
    if (name !== undefined) return join(folder, name);
  }
  return undefined;
}
