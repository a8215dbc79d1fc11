// Builds the CUDA backend for the emulator of test/cuda/emulator: `npm run build:cuda:emulated`. It needs a C++ compiler only.
//
//   build-emulated/libspkv_cuda.so    the library, for SPKV_CUDA_LIBRARY
//   build-emulated/libcublasLt.so     what it opens in place of cuBLASLt
//   build-emulated/libnccl.so         and of NCCL
//   build-emulated/decode_test        with --tests: the tests of test/cuda,
//   build-emulated/emulator_test      and those of the emulator
//
// With --sanitize: the same in build-emulated-asan, with the address and undefined-behaviour sanitizers.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { interfaceVersion } from './interface.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const compiler = process.env.CXX ?? 'g++';
const FLAGS = [
  '-std=c++17', '-fPIC', '-fvisibility=hidden', '-fno-strict-aliasing', '-Wall', '-Wextra', '-Wno-unknown-pragmas', '-Wno-parentheses',
  '-DSPKV_EMULATED_CUDA', `-DSPKV_CUDA_VERSION="${interfaceVersion()}"`, '-Itest/cuda/emulator/include', '-Itest/cuda', '-Inative',
];
const SANITIZE = ['-O1', '-g', '-fno-omit-frame-pointer', '-fsanitize=address,undefined', '-fno-sanitize-recover=undefined'];

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

/** Compiles what has changed, a few files at a time; returns the objects. */
async function objects(directory, flags, sources) {
  const objectOf = (source) => join(directory, `${source.replaceAll('/', '-')}.o`);
  const waiting = sources.filter((source) => isStale(objectOf(source), `${objectOf(source)}.d`));
  const work = async () => {
    for (let source = waiting.shift(); source; source = waiting.shift()) {
      // nvcc includes this header by itself.
      const language = source.endsWith('.cu') ? ['-x', 'c++', '-include', 'cuda_runtime.h'] : [];
      const object = objectOf(source);
      const output = await compile([...flags, '-c', ...language, source, '-o', object, '-MMD', '-MF', `${object}.d`]);
      console.error(`${source}${output ? `\n${output}` : ''}`);
    }
  };
  await Promise.all(Array.from({ length: Number(process.env.JOBS ?? availableParallelism()) }, work));
  return sources.map(objectOf);
}

/** Builds the libraries, and the tests when asked for; returns the folder. */
export async function buildEmulatedCuda({ sanitize = false, tests = false } = {}) {
  const directory = join(root, sanitize ? 'build-emulated-asan' : 'build-emulated');
  mkdirSync(directory, { recursive: true });
  const flags = [...FLAGS, ...(sanitize ? SANITIZE : ['-O3'])];
  const standIns = { 'libcublasLt.so': 'test/cuda/emulator/cublaslt.cc', 'libnccl.so': 'test/cuda/emulator/nccl.cc' };
  const products = Object.values(standIns);
  const emulator = below('test/cuda/emulator', /\.cc$/).filter((file) => !products.includes(file));
  const core = ['cache', 'mapped_file', 'saved_sequence', 'status', 'step_checks', 'stream'].map((name) => `native/core/${name}.cc`);
  const backend = [...below('native/cuda', /\.(cu|cc)$/), ...core, ...emulator];
  const programs = tests ? [...below('test/cuda', /\.cu$/), ...below('test/cuda/emulator/test', /\.cc$/)] : [];
  const all = await objects(directory, flags, [...backend, ...products, ...programs]);
  const library = all.slice(0, backend.length);
  const link = (name, parts, extra = []) => compile([...flags, ...extra, '-o', join(directory, name), ...parts, '-lpthread', '-ldl']);
  await link('libspkv_cuda.so', library, sanitize ? ['-shared'] : ['-shared', '-Wl,-z,defs']);
  for (const [i, name] of Object.keys(standIns).entries()) await link(name, [all[backend.length + i]], ['-shared']);
  if (tests) {
    const parts = all.slice(backend.length + products.length);
    await link('decode_test', [...library, ...parts.slice(0, -1)]);
    await link('emulator_test', [...library, parts.at(-1)]);
  }
  return directory;
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    console.log(await buildEmulatedCuda({ sanitize: process.argv.includes('--sanitize'), tests: process.argv.includes('--tests') }));
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
