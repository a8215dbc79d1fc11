import { setImmediate as turn } from 'node:timers/promises';
import { type Device, type DeviceOptions, liveAllocations, openDevice } from '../../lib/ops.js';

/**
 * The device that the tests run on: SPKV_TEST_DEVICE, the CPU unless told otherwise. `options` are for the CPU.
 * A GPU computes in f32, so that its results can be compared as those of the CPU are, unless told otherwise.
 */
export function testDevice(options?: DeviceOptions, precision: 'bf16' | 'f32' = 'f32'): Device {
  const name = process.env['SPKV_TEST_DEVICE'] ?? 'cpu';
  return name === 'cpu' ? openDevice(name, options) : openDevice(name, { precision });
}

const { imul } = Math; // Jest looks globals up slowly

/** A generator of reproducible numbers: uniform in [0, 1). */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    // Mulberry32.
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = imul(t ^ (t >>> 15), t | 1);
    t ^= t + imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Normally distributed f32 values. */
export function normals(count: number, uniform: () => number, scale = 1): Float32Array {
  return Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return scale * radius * Math.cos(2 * Math.PI * uniform());
  });
}

/** The largest absolute difference; NaN counts as infinite. */
export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity;
  let worst = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!);
    worst = difference >= 0 ? Math.max(worst, difference) : Infinity;
  }
  return worst;
}

export const NAN_F32 = (count: number): Float32Array => new Float32Array(count).fill(NaN);

/** Frees what earlier tests have left to the garbage collector, so that live allocations can be counted. */
export async function collectGarbage(): Promise<void> {
  for (let quiet = 0, last = -1; quiet < 3; quiet++) {
    globalThis.gc!();
    await turn();
    const { bytes } = liveAllocations();
    if (bytes !== last) quiet = 0;
    last = bytes;
  }
}
