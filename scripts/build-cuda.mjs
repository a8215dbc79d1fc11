// Builds the CUDA library through cmake-js. Needs the CUDA toolkit, CMake and a C++17 compiler, but no GPU.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const NEEDS = 'It needs CUDA toolkit 13 (nvcc), CMake 3.24, make and a C++17 compiler.';

/** Where the library lies. */
export function cudaPath() {
  return join(root, 'build-cuda/Release/libspkv_cuda.so');
}

/** True when the library is missing or older than a source. */
export function isCudaStale() {
  if (!existsSync(cudaPath())) return true;
  const built = statSync(cudaPath()).mtimeMs;
  const sources = ['native/cuda', 'native/core', 'native/ops'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true }).map((name) => join(folder, name)),
  );
  return ['CMakeLists.txt', ...sources].some((file) => statSync(join(root, file)).mtimeMs > built);
}

/** Runs cmake-js; throws with its output when it fails. */
export function buildCuda({ quiet = false } = {}) {
  if (process.platform !== 'linux') throw new Error(`The CUDA library is for Linux; this is ${process.platform}.`);
  const cmakeJs = createRequire(join(root, 'package.json')).resolve('cmake-js/bin/cmake-js');
  // The generator is the one that CMake itself takes: both ways to build share the folder.
  const where = ['--directory', root, '--out', join(root, 'build-cuda'), '--config', 'Release', '--prefer-make', '--log-level', 'warn'];
  const jobs = process.env.JOBS ?? availableParallelism();
  for (const step of [['configure'], ['build', '--target', 'spkv_cuda', '--parallel', `${jobs}`]]) {
    const result = spawnSync(process.execPath, [cmakeJs, ...step, ...where], {
      cwd: root,
      stdio: quiet ? 'pipe' : ['ignore', 2, 2],
      encoding: 'utf8',
      env: { ...process.env, PATH: `${process.env.PATH}${delimiter}${toolkit()}` },
    });
    if (result.status === 0) continue;
    const output = quiet ? `\n${result.stdout}${result.stderr}` : '';
    throw new Error(`Building the CUDA library failed (cmake-js ${step[0]}). ${NEEDS}${output}`);
  }
}

/** Where the toolkit's programs lie when they are not on the path. */
function toolkit() {
  return join(process.env.CUDA_HOME ?? process.env.CUDA_PATH ?? '/usr/local/cuda', 'bin');
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    buildCuda();
    console.error(`built: ${cudaPath()}`);
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
