// Builds the CUDA backend for the emulator of test/cuda/emulator: `npm run build:cuda:emulated`. It needs a C++ compiler only.
//
//   build-emulated/libspkv_cuda.so    the library, for SPKV_CUDA_LIBRARY
//   build-emulated/libcublasLt.so     what it opens in place of cuBLASLt
//   build-emulated/libnccl.so         and of NCCL
//   build-emulated/decode_test        with --tests: the tests of test/cuda,
//   build-emulated/emulator_test      and those of the emulator; with --races race_test, too
//
// With --sanitize: the same in build-emulated-asan, with the address and undefined-behaviour sanitizers.
// With --races: the same in build-emulated-races, where kernels are watched for data races (test/cuda/emulator/races.h).
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { interfaceVersion } from './interface.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const compiler = process.env.CXX ?? 'g++';
const FLAGS = [
  '-std=c++17', '-fPIC', '-fvisibility=hidden', '-fno-strict-aliasing', '-Wall', '-Wextra', '-Wno-unknown-pragmas', '-Wno-parentheses',
  '-DSPKV_EMULATED_CUDA', `-DSPKV_CUDA_VERSION="${interfaceVersion()}"`, '-Itest/cuda/emulator/include', '-Itest/cuda', '-Inative',
];
const SANITIZE = ['-O1', '-g', '-fno-omit-frame-pointer', '-fsanitize=address,undefined', '-fno-sanitize-recover=undefined'];

const RACES = ['-O3', '-g', '-DSPKV_EMULATED_RACES'];
// Has the compiler call a function for each access. The library that it is meant for is not linked: the emulator has these functions.
const WATCH = ['-fsanitize=thread', '--param=tsan-distinguish-volatile=1', '--param=tsan-instrument-func-entry-exit=0'];

const below = (folder, extension) => readdirSync(join(root, folder)).filter((name) => extension.test(name)).sort().map((name) => `${folder}/${name}`);

/** Resolves with the output; rejects with it when the compiler refuses. */
function compile(args) {
  return new Promise((done, failed) => {
    const child = spawn(compiler, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text));
    child.on('error', failed);
    child.on('close', (code) => (code === 0 ? done(output) : failed(new Error(`${compiler} ${args.join(' ')}\n${output}`))));
  });
}

const modified = (file) => (existsSync(file) ? statSync(file).mtimeMs : Infinity);

/** What an object was made of, from the rule that the compiler writes beside it; of an object that is not there, nothing. */
function isStale(object, rule) {
  if (!existsSync(object) || !existsSync(rule)) return true;
  const sources = readFileSync(rule, 'utf8').replaceAll('\\\n', ' ').replace(/^[^:]*:/, '').trim().split(/\s+/);
  const built = statSync(object).mtimeMs;
  return sources.some((source) => modified(resolve(root, source)) > built) || modified(fileURLToPath(import.meta.url)) > built;
}

const hasKernels = (source) => source.endsWith('.cu') || source.startsWith('test/cuda/emulator/test/');

/** Compiles what has changed, a few files at a time; returns the objects. */
async function objects(directory, flags, kernelFlags, sources) {
  const objectOf = (source) => join(directory, `${source.replaceAll('/', '-')}.o`);
  const waiting = sources.filter((source) => isStale(objectOf(source), `${objectOf(source)}.d`));
  const work = async () => {
    for (let source = waiting.shift(); source; source = waiting.shift()) {
      // nvcc includes this header by itself.
      const language = source.endsWith('.cu') ? ['-x', 'c++', '-include', 'cuda_runtime.h'] : [];
      if (hasKernels(source)) language.unshift(...kernelFlags);
      const object = objectOf(source);
      const output = await compile([...flags, '-c', ...language, source, '-o', object, '-MMD', '-MF', `${object}.d`]);
      console.error(`${source}${output ? `\n${output}` : ''}`);
    }
  };
  await Promise.all(Array.from({ length: Number(process.env.JOBS ?? availableParallelism()) }, work));
  return sources.map(objectOf);
}

/** Builds the libraries, and the tests when asked for; returns the folder. */
export async function buildEmulatedCuda({ sanitize = false, races = false, tests = false } = {}) {
  const directory = join(root, `build-emulated${sanitize ? '-asan' : races ? '-races' : ''}`);
  mkdirSync(directory, { recursive: true });
  const flags = [...FLAGS, ...(sanitize ? SANITIZE : races ? RACES : ['-O3'])];
  const standIns = { 'libcublasLt.so': 'test/cuda/emulator/cublaslt.cc', 'libnccl.so': 'test/cuda/emulator/nccl.cc' };
  const products = Object.values(standIns);
  const emulator = below('test/cuda/emulator', /\.cc$/).filter((file) => !products.includes(file));
  const core = ['cache', 'mapped_file', 'saved_sequence', 'status', 'step_checks', 'stream'].map((name) => `native/core/${name}.cc`);
  // The emulator first: of functions that several objects have the linker takes the first, and its own are not to be watched.
  const backend = [...emulator, ...core, ...below('native/cuda', /\.cc$/), ...below('native/cuda', /\.cu$/)];
  const emulatorTests = below('test/cuda/emulator/test', /\.cc$/).filter((source) => races || !source.endsWith('race_test.cc'));
  const programs = tests ? [...below('test/cuda', /\.cu$/), ...emulatorTests] : [];
  const all = await objects(directory, flags, races ? WATCH : [], [...backend, ...products, ...programs]);
  const library = all.slice(0, backend.length);
  const link = (name, parts, extra = []) => compile([...flags, ...extra, '-o', join(directory, name), ...parts, '-lpthread', '-ldl']);
  await link('libspkv_cuda.so', library, sanitize ? ['-shared'] : ['-shared', '-Wl,-z,defs']);
  for (const [i, name] of Object.keys(standIns).entries()) await link(name, [all[backend.length + i]], ['-shared']);
  if (tests) {
    const parts = all.slice(backend.length + products.length);
    await link('decode_test', [...library, ...parts.slice(0, -emulatorTests.length)]);
    for (const [i, source] of emulatorTests.entries()) await link(basename(source, '.cc'), [...library, parts.at(i - emulatorTests.length)]);
  }
  return directory;
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    const [sanitize, races, tests] = ['--sanitize', '--races', '--tests'].map((option) => process.argv.includes(option));
    console.log(await buildEmulatedCuda({ sanitize, races, tests }));
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
