import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { temporaryDirectory } from '../support/files.js';

// How native/cuda/matrix_library.cc chooses algorithms of cuBLASLt's, with the emulator's stand-in for it, whose algorithms pretend
// to take minutes: test/cuda/emulator/cublaslt.cc.

const dir = temporaryDirectory();
const PROGRAM = join(dir, 'time_products');
const CUBLASLT = join(dir, 'libcublasLt.so');

beforeAll(() => {
  const flags = ['-std=c++17', '-O0', '-fPIC', '-pthread', '-DSPKV_EMULATED_CUDA', '-Itest/cuda/emulator/include', '-Itest/cuda', '-Inative'];
  const sources = [
    'test/support/time_products.cc', 'native/core/status.cc', 'native/cuda/fastest.cc', 'native/cuda/matrix_library.cc',
    ...['runtime', 'memory', 'block', 'fiber', 'races', 'race_shadow', 'race_report'].map((name) => `test/cuda/emulator/${name}.cc`),
  ];
  const compiler = process.env['CXX'] ?? 'c++';
  execFileSync(compiler, [...flags, ...sources, '-o', PROGRAM, '-ldl']);
  execFileSync(compiler, [...flags, '-shared', 'test/cuda/emulator/cublaslt.cc', '-o', CUBLASLT]);
}, 600_000);

type Outcome = { right: boolean; runs: number[] } | { error: string; runs: number[] };

/** Two products of a kind, one after the other. */
function products(words: string, algorithms: string): Outcome[] {
  const env = { ...process.env, SPKV_CUBLASLT: CUBLASLT, SPKV_EMULATED_ALGORITHMS: algorithms };
  return JSON.parse(execFileSync(PROGRAM, words.split(' '), { encoding: 'utf8', env })) as Outcome[];
}

/** What runs when nothing is timed, or any longer. */
const only = (algorithm: number): Outcome => ({ right: true, runs: [0, 1, 2, 3].map((i) => (i === algorithm ? 1 : 0)) });

describe.each(['none', 'out', 'other'])('added to %s', (base) => {
  test('the fastest algorithm is taken, and those that cannot be had are passed over', () => {
    const [first, second] = products(`timed ${base}`, '4?!3');
    expect(first).toMatchObject({ right: true });
    const [most, unusable, failing, best] = first!.runs;
    expect([most! > 5, unusable, failing, best! > 5]).toEqual([true, 0, 1, true]);
    expect(second).toEqual(only(3));
  });

  test('the first one stays unless another is clearly faster', () => {
    expect(products(`timed ${base}`, '3343')[1]).toEqual(only(0));
  });

  test('one that fails is not taken, even if it is the first', () => {
    expect(products(`timed ${base}`, '!9!2')).toMatchObject([{ right: true }, only(3)]);
    expect(products(`timed ${base}`, '!!!5')).toMatchObject([{ right: true }, only(3)]);
  });

  test('one that is far too slow is soon given up', () => {
    const [first, second] = products(`timed ${base}`, '493');
    const [, slow, best] = first!.runs;
    expect([slow, best! > 5, second]).toEqual([2, true, only(2)]);
  });

  test('where all fail, the error is that of the first', () => {
    const failed = { error: 'cublasLtMatmul failed with status 15' };
    expect(products(`timed ${base}`, '!!')).toMatchObject([failed, { ...failed, runs: [1, 0, 0, 0] }]);
    expect(products(`untimed ${base}`, '!1')).toMatchObject([failed, failed]);
  });

  test('nothing is timed without being asked for, nor while a graph is recorded', () => {
    expect(products(`untimed ${base}`, '4?!1')).toEqual([only(0), only(0)]);
    expect(products(`timed ${base} recorded`, '4?!1')).toEqual([only(0), only(0)]);
  });
});

test('without memory to spare, a product that is added to its own output is not timed', () => {
  expect(products('timed out no-memory', '4?!1')).toEqual([only(0), only(0)]);
  expect(products('timed other no-memory', '4?!1')[1]).toEqual(only(3));
});
