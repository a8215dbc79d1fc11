import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type DeviceOptions, openDevice } from '../lib/ops.js';
import { errorOf, expectError } from './support/errors.js';
import { temporaryDirectory } from './support/files.js';

const dir = temporaryDirectory();
const inherited = process.env['SPKV_CUDA_LIBRARY'];
afterEach(() => {
  process.env['SPKV_CUDA_LIBRARY'] = inherited;
});

/** The CUDA library that devices are opened with in the rest of a test. */
function use(library: string): void {
  process.env['SPKV_CUDA_LIBRARY'] = library;
}

/** What 'auto' opens, and its warnings. */
function best(options: DeviceOptions = {}): { name: string; warnings: string[] } {
  const warnings: string[] = [];
  using device = openDevice('auto', { ...options, onWarning: (message) => warnings.push(message) });
  return { name: device.name, warnings };
}

test('the CPU', () => {
  using device = openDevice('cpu', { threads: 1 });
  expect(device).toMatchObject({ name: 'cpu', description: expect.stringContaining('1 thread'), freeMemory: null });
  expect(device.pageBytes(64, 'bf16')).toBe(2 * 64 * 64 * 2);
  expect(device.pageBytes(64, 'f32')).toBe(2 * 64 * 64 * 4);
});

test.each(['gpu', 'cuda:', 'cuda:x', 'cuda:-1', 'cuda:0.5', 'cuda0', 'CUDA:0', 'cpu:0', '', 7, null])('a name that is none: %p', async (name) => {
  await expectError(() => openDevice(name as string), 'INVALID_ARGUMENT', /auto, cpu or a GPU such as cuda:0 for device/);
});

test.each(['threads', 'pin', 'instructions'] as const)('a GPU has no option %s', async (option) => {
  const options = { [option]: { threads: 1, pin: false, instructions: 'auto' }[option] };
  await expectError(() => openDevice('cuda:0', options), 'INVALID_ARGUMENT', option, 'cuda:0');
});

test('an option that no device has', async () => {
  await expectError(() => openDevice('cuda:0', { thread: 1 } as never), 'INVALID_ARGUMENT', 'threads');
});

test('an option of all devices that is not what it should be', async () => {
  await expectError(() => openDevice('cpu', { precision: 'f64' as never }), 'INVALID_ARGUMENT', 'precision');
  await expectError(() => openDevice('cuda:0', { timeProducts: 1 as never }), 'INVALID_ARGUMENT', 'timeProducts');
});

test('the CPU has no need to time products', () => {
  using device = openDevice('cpu', { threads: 1, timeProducts: true });
  expect(device.name).toBe('cpu');
});

test('arguments of a page', async () => {
  using device = openDevice('cpu', { threads: 1 });
  await expectError(() => device.pageBytes(0, 'f32'), 'INVALID_ARGUMENT', 'headDim');
  await expectError(() => device.pageBytes(7, 'f32'), 'SHAPE', 'headDim');
  await expectError(() => device.pageBytes(64, 'i32' as never), 'INVALID_ARGUMENT', 'dtype');
});

describe('without the CUDA library', () => {
  beforeEach(() => use(join(dir, 'missing.so')));

  test.each(['cuda', 'cuda:0', 'cuda:3'])('%s says how to build it', async (name) => {
    await expectError(() => openDevice(name), 'DEVICE', 'missing.so', 'npx spkv build --cuda', 'npm run build:cuda');
  });

  test('auto is the CPU', () => {
    expect(best()).toEqual({ name: 'cpu', warnings: [] });
  });
});

describe('with a file that is no CUDA library', () => {
  const text = join(dir, 'text.so');
  beforeAll(() => writeFileSync(text, 'not a library'));
  beforeEach(() => use(text));

  test('a GPU names it', async () => {
    await expectError(() => openDevice('cuda:0'), 'DEVICE', 'could not be opened', 'text.so');
  });

  test('auto is the CPU and says why', () => {
    expect(best()).toEqual({ name: 'cpu', warnings: [expect.stringMatching(/^The CPU is used: .*text\.so/)] });
  });

  test('auto does not look at it when it is told how to use the CPU', () => {
    expect(best({ threads: 1 })).toEqual({ name: 'cpu', warnings: [] });
  });
});

describe('with a CUDA library', () => {
  const library = join(dir, 'libspkv_cuda.so');
  const version = execFileSync(process.execPath, ['scripts/interface.mjs'], { encoding: 'utf8' }).trim();
  beforeAll(() => {
    const sources = ['test/support/cuda_library.cc', 'native/core/stream.cc', 'native/core/status.cc'];
    const flags = ['-std=c++17', '-shared', '-fPIC', '-fvisibility=hidden', '-pthread', '-Inative', `-DSPKV_CUDA_VERSION="${version}"`];
    execFileSync(process.env['CXX'] ?? 'c++', [...flags, ...sources, '-o', library]);
  });
  beforeEach(() => use(library));

  test.each([['cuda', 'cuda:0'], ['cuda:0', 'cuda:0'], ['cuda:1', 'cuda:1'], ['auto', 'cuda:0']])('%s is %s', (asked, name) => {
    using device = openDevice(asked);
    expect(device).toMatchObject({ name, description: 'a hollow GPU', freeMemory: 2 ** 30 });
    expect(device.pageBytes(64, 'bf16')).toBe(2 * 64 * 64 * 2);
  });

  test('auto is the CPU when it is told how to use it', () => {
    expect(best({ threads: 1 })).toEqual({ name: 'cpu', warnings: [] });
  });

  test('a GPU that is not there is an error of the library', async () => {
    await expectError(() => openDevice('cuda:2'), 'DEVICE', 'There is no GPU 2');
  });

  test('work runs on its stream, and its errors come back', async () => {
    using device = openDevice('cuda:0');
    using tensor = device.from(Float32Array.of(1, 2, 3));
    expect([...((await tensor.read()) as Float32Array)]).toEqual([1, 2, 3]);
    await device.synchronize();
    await expectError(() => device.createCache({ layers: 1, kvHeads: 1, headDim: 64, window: 64, capacityPages: 1 }), 'OUT_OF_MEMORY', 'hollow');
    await expectError(() => device.map('file', 0, 'f32', [1]), 'FILE', 'hollow');
  });

  test('tensors of two devices do not mix', async () => {
    using gpu = openDevice('cuda:0');
    using cpu = openDevice('cpu', { threads: 1 });
    const { add } = await import('../lib/ops.js');
    await expectError(() => add(gpu.tensor('f32', [1, 1]), cpu.tensor('f32', [1, 1]), gpu.tensor('f32', [1, 1])), 'DEVICE');
  });

  test('of another version is refused', async () => {
    const old = join(dir, 'old.so');
    const bytes = readFileSync(library);
    bytes.write(version.replace(/.$/, '?'), bytes.indexOf(version), 'latin1');
    writeFileSync(old, bytes);
    use(old);
    const { message } = await errorOf(() => openDevice('cuda:0'));
    expect(message).toContain(`but this spkv needs ${version}: build it again`);
    expect(best()).toEqual({ name: 'cpu', warnings: [`The CPU is used: ${message}`] });
  });
});
