// Builds the addon with its CPU backend through node-gyp. No dependency but node-gyp and a C++ compiler.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');

/** Where the binary lies: the sanitizer build has a folder of its own. */
export function nativePath(sanitize = false) {
  return join(root, sanitize ? 'build-asan/build/Release/spkv.node' : 'build/Release/spkv.node');
}

/** True when the binary is missing or older than a source. */
export function isStale(sanitize = false) {
  const binary = nativePath(sanitize);
  if (!existsSync(binary)) return true;
  const built = statSync(binary).mtimeMs;
  const sources = ['binding.gyp', 'scripts/sources.mjs', 'scripts/interface.mjs', 'native/cuda/device.h', ...filesBelow('native')];
  return sources.some((file) => statSync(join(root, file)).mtimeMs > built);
}

/** The addon's own: of the CUDA library it knows no more than the header of its device. */
function filesBelow(folder) {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    return entry.isDirectory() ? (entry.name === 'cuda' ? [] : filesBelow(path)) : [path];
  });
}

/** Runs node-gyp; throws with its output when it fails. */
export function buildNative({ sanitize = false, quiet = false } = {}) {
  const directory = sanitize ? join(root, 'build-asan') : root;
  if (sanitize) linkSources(directory);
  const nodeGyp = createRequire(join(root, 'package.json')).resolve('node-gyp/bin/node-gyp.js');
  const flags = ['--loglevel=warn', `--jobs=${process.env.JOBS ?? 'max'}`, ...headers()];
  // `configure` writes the list of sources anew, `build` compiles what changed.
  for (const step of ['configure', 'build']) {
    const defines = step === 'configure' && sanitize ? ['--', '-Dsanitize=1'] : [];
    const args = [nodeGyp, step, ...flags, ...defines];
    const result = spawnSync(process.execPath, args, { cwd: directory, stdio: quiet ? 'pipe' : ['ignore', 2, 2], encoding: 'utf8' });
    if (result.status === 0) continue;
    const output = quiet ? `\n${result.stdout}${result.stderr}` : '';
    throw new Error(`Building the native library failed (node-gyp ${step}). It needs Python 3, make and a C++17 compiler.${output}`);
  }
}

/** The headers of the running Node when they are installed beside it, so that nothing is downloaded. */
function headers() {
  if (process.env.npm_config_nodedir) return [];
  const prefix = resolve(dirname(process.execPath), '..');
  return existsSync(join(prefix, 'include/node/node_api.h')) ? [`--nodedir=${prefix}`] : [];
}

function linkSources(directory) {
  mkdirSync(directory, { recursive: true });
  for (const name of ['native', 'scripts', 'binding.gyp', 'package.json', 'node_modules']) {
    if (!existsSync(join(directory, name))) symlinkSync(join('..', name), join(directory, name));
  }
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  buildNative({ sanitize: process.argv.includes('--sanitize') });
}
