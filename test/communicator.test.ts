import { execFileSync, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryDirectory } from './support/files.js';

// The binding of NCCL, on a device that can do nothing else, with a stand-in for NCCL itself: see test/cuda/emulator/nccl.cc.

const dir = temporaryDirectory();
const LIBRARY = join(dir, 'libspkv_cuda.so');
const NCCL = join(dir, 'libnccl.so');

beforeAll(() => {
  const version = execFileSync(process.execPath, ['scripts/interface.mjs'], { encoding: 'utf8' }).trim();
  const flags = ['-std=c++17', '-O0', '-shared', '-fPIC', '-fvisibility=hidden', '-pthread', '-DSPKV_EMULATED_CUDA', '-Itest/cuda/emulator/include', '-Itest/cuda', '-Inative'];
  const sources = [
    'test/support/cuda_library.cc', ...['stream', 'status'].map((name) => `native/core/${name}.cc`),
    ...['communicator', 'nccl_library', 'stream_memory'].map((name) => `native/cuda/${name}.cc`),
    ...['runtime', 'memory', 'block', 'fiber', 'races', 'race_shadow', 'race_report'].map((name) => `test/cuda/emulator/${name}.cc`),
  ];
  const compiler = process.env['CXX'] ?? 'c++';
  execFileSync(compiler, [...flags, '-DSPKV_TEST_COMMUNICATORS', `-DSPKV_CUDA_VERSION="${version}"`, ...sources, '-o', LIBRARY, '-ldl']);
  execFileSync(compiler, [...flags, 'test/cuda/emulator/nccl.cc', '-o', NCCL]);
}, 600_000);

function scenario(name: string, env: Record<string, string> = {}): unknown {
  const { NODE_OPTIONS: _, ...inherited } = process.env;
  const { stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'test/support/communicator-scenarios.ts', name], {
    encoding: 'utf8', timeout: 240_000, env: { ...inherited, SPKV_CUDA_LIBRARY: LIBRARY, SPKV_NCCL: NCCL, ...env },
  });
  expect(stderr).toBe('');
  return JSON.parse(stdout);
}

test('several sums at once, each over all ranks; a communicator that was disposed is refused', () => {
  expect(scenario('sums')).toEqual({ worst: 0, last: [39_999, 79_998], afterwards: { code: 'DISPOSED', message: 'The communicator has been disposed' } });
});

test('one rank has what it gives, once it is connected', () => {
  expect(scenario('alone')).toEqual({
    before: { code: 'INVALID_ARGUMENT', message: 'Expected connect() before the first sum over the ranks' }, values: [1, 2, 3],
  });
});

test('what waits for a rank that is missing or gone ends when it is aborted', () => {
  expect(scenario('missing')).toEqual({
    connected: { code: 'ABORTED', message: 'Another rank has ended while meeting the other ranks' },
    sum: { code: 'ABORTED', message: 'Another rank has ended while summing over the ranks' },
  });
});

test('a call that fails has the words of NCCL', () => {
  const failed = { code: 'RANK', message: 'NCCL failed while summing over the ranks: remote process exited or there was a network error (emulated)' };
  expect(scenario('failing', { SPKV_EMULATED_NCCL_FAIL: '2' })).toEqual([[{ value: 2 }, { value: 2 }], [failed, failed]]);
});

test('arguments', () => {
  expect(scenario('arguments')).toMatchObject([
    { code: 'INVALID_ARGUMENT', message: 'Expected a Uint8Array of 128 bytes for id' },
    { code: 'INVALID_ARGUMENT', message: 'Expected an integer from 0 to 0 for rank but received 1' },
    { code: 'INVALID_ARGUMENT', message: 'Expected a communicator for communicator' },
    { code: 'DTYPE', message: 'allReduce: Expected f32 for x but received i32' },
    { code: 'SHAPE', message: expect.stringContaining('Expected shape [N] for x') },
    { code: 'DEVICE', message: expect.stringContaining('x belongs to another device') },
    { code: 'INVALID_ARGUMENT', message: 'Sums over ranks are not possible while a graph is captured' },
    { code: 'UNSUPPORTED', message: expect.stringContaining('NCCL, which needs NVIDIA GPUs; this device is the CPU') },
  ]);
});

describe('a library', () => {
  test('that is not there', () => {
    expect(scenario('opening', { SPKV_NCCL: join(dir, 'missing.so') })).toMatchObject({
      code: 'DEVICE', message: expect.stringMatching(/^Could not open NCCL \(.*missing\.so\), through which GPUs train together: install it .* SPKV_NCCL$/),
    });
  });

  test('that is too old', () => {
    expect(scenario('opening', { SPKV_EMULATED_NCCL_VERSION: '21003' })).toEqual({ code: 'DEVICE', message: `Expected NCCL 2.14 or newer but ${NCCL} is 2.10: update it` });
    expect(scenario('opening', { SPKV_EMULATED_NCCL_VERSION: '2708' })).toEqual({ code: 'DEVICE', message: `Expected NCCL 2.14 or newer but ${NCCL} is 2.7: update it` });
  });

  test('that is another one', () => {
    const other = join(dir, 'other.so');
    writeFileSync(join(dir, 'other.cc'), 'int other() { return 0; }');
    execFileSync(process.env['CXX'] ?? 'c++', ['-shared', '-fPIC', join(dir, 'other.cc'), '-o', other]);
    expect(scenario('opening', { SPKV_NCCL: other })).toEqual({ code: 'DEVICE', message: `${other} is not NCCL: it does not tell its version` });
  });
});
