// What is compiled once per instruction set: it must not leak into the common part, and must compute the same.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { type Device, openDevice, type Tensor } from '../../lib/ops.js';
import { native } from '../../lib/native.js';
import * as ops from '../../lib/ops.js';
import { normals, random } from '../support/device.js';
import { expectClose, testDevices } from '../support/operands.js';

const hasNm = spawnSync('nm', ['--version']).status === 0;
const objects = (set: string) => `build/Release/obj.target/cpu_${set}/native/cpu`;
const reason = process.arch !== 'x64' ? 'not x64' : !hasNm ? 'no nm' : !existsSync(objects('avx512')) ? 'no object files' : '';

// The linker keeps one copy of a weak symbol. Were it the one compiled for AVX-512, the whole addon would crash on
// a processor without; see native/cpu/isa.h.
(reason ? describe.skip : describe)(`object files${reason && ` (${reason})`}`, () => {
  test.each(['avx512', 'avx2', 'portable'])('%s: every shared symbol is in its namespace', (set) => {
    const files = readdirSync(objects(set)).filter((name) => name.endsWith('.o')).map((name) => `${objects(set)}/${name}`);
    expect(files.length).toBeGreaterThan(5);
    const { stdout, status } = spawnSync('nm', ['-C', '--defined-only', ...files], { encoding: 'utf8', maxBuffer: 1 << 26 });
    expect(status).toBe(0);
    const symbols = [...stdout.matchAll(/^[0-9a-f]* ([A-Za-z]) (.*)$/gm)];
    expect(symbols.length).toBeGreaterThan(20);
    const shared = symbols.filter(([, kind]) => /[WVuTDBRC]/.test(kind!)).map(([, , name]) => name!);
    expect(shared.filter((name) => !name.includes(`spkv::cpu::${set}::`))).toEqual([]);
  });
});

const [TOKENS, WIDTH, HEADS, KV_HEADS, HEAD_DIM] = [37, 96, 4, 2, 24];
const devices = testDevices();

/** A little of everything: norm, product, rotation, activation, attention over a pruned cache. */
async function compute(device: Device): Promise<Record<string, Float32Array>> {
  const uniform = random(7);
  const tensor = (...shape: number[]) => device.from(normals(shape.reduce((a, b) => a * b), uniform, 0.5), shape);
  const empty = (...shape: number[]) => device.tensor('f32', shape);

  const x = tensor(TOKENS, WIDTH);
  const normed = empty(TOKENS, WIDTH);
  ops.rmsNorm(normed, x, tensor(WIDTH), 1e-5);
  const q = empty(TOKENS, HEADS * HEAD_DIM);
  ops.matmul(q, normed, ops.packWeight(tensor(HEADS * HEAD_DIM, WIDTH)), tensor(HEADS * HEAD_DIM));
  const angles = empty(TOKENS, HEAD_DIM);
  const positions = device.from(Int32Array.from({ length: TOKENS }, (_, i) => i));
  ops.rotaryAngles(angles, positions, device.from(Float32Array.from({ length: HEAD_DIM / 2 }, (_, i) => 100 ** (-i / 12))));
  ops.rope(q.split(HEADS), q.split(HEADS), angles);
  const activated = empty(TOKENS, WIDTH);
  ops.siluMul(activated, normed, x);

  const cache = device.createCache({ layers: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, window: 5, capacityPages: 16 });
  const sequence = await cache.createSequence({ threshold: 0.5 });
  const slots = device.from(Int32Array.of(sequence.slot));
  const offsets = device.from(Int32Array.of(0, TOKENS));
  const keys = tensor(1, TOKENS, KV_HEADS, HEAD_DIM);
  const values = tensor(1, TOKENS, KV_HEADS, HEAD_DIM);
  const utilities = device.from(Float32Array.from({ length: TOKENS * KV_HEADS }, uniform), [1, TOKENS, KV_HEADS]);
  const attend = (): Tensor => {
    const out = empty(TOKENS, HEADS, HEAD_DIM);
    ops.attention(out, q.split(HEADS), keys.at(0), values.at(0), utilities.at(0), cache, 0, slots, offsets, 0.2);
    return out;
  };
  const first = attend();
  ops.insert(cache, keys, values, utilities, slots, offsets);
  const second = attend();
  const logProbabilities = empty(TOKENS);
  ops.logProbabilities(logProbabilities, activated, positions);

  const results = { normed, q, activated, first, second, logProbabilities };
  const read = await Promise.all(Object.values(results).map((result) => result.read()));
  cache.dispose();
  return Object.fromEntries(Object.keys(results).map((name, i) => [name, read[i] as Float32Array]));
}

test('all instruction sets give the same results', async () => {
  const [reference, ...others] = await Promise.all(devices.map(([, device]) => compute(device)));
  for (const result of others) {
    for (const [name, values] of Object.entries(result)) {
      // Orders of summation differ: allow the rounding errors of some two hundred terms of size 1.
      expectClose(values, reference![name]!, (i) => 3e-6 * (1 + Math.abs(reference![name]![i]!)));
    }
  }
});

test('an instruction set is what was asked for, or an error', () => {
  for (const instructions of ['avx512', 'avx2', 'portable'] as const) {
    try {
      using device = openDevice('cpu', { instructions });
      expect(device.description).toMatch(new RegExp(`^${instructions},`));
    } catch (error) {
      expect(error).toMatchObject({ code: 'DEVICE' });
      expect(instructions).not.toBe('portable');
    }
  }
});

test('a device that cannot be opened is an error, and leaves nothing behind', () => {
  // Past the check of openDevice, as a processor without the instructions would be.
  expect(() => native().openCpuDevice(1, false, 'mmx')).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
});
