// Work for a device that nobody comes too late for.
import { setImmediate as turn } from 'node:timers/promises';
import type { Device, Tensor } from '../../lib/ops.js';
import * as ops from '../../lib/ops.js';

type Product = [out: Tensor, a: Tensor, b: Tensor];

const operands = (device: Device): Product => [0, 1, 2].map(() => device.tensor('f32', [512, 512])) as Product;

/** Enqueues products of some milliseconds each; gives what they write. */
export function multiply(device: Device, products: number): Tensor {
  const [out, a, b] = operands(device);
  for (let i = 0; i < products; i++) ops.matmul(out, a, b);
  return out;
}

/** Enqueues products that take an hour or so: what ends them is a cancellation, or the end of the device. Gives what they write. */
export function keepBusy(device: Device): Tensor {
  const [out, a, b] = operands(device);
  const some = device.capture(() => {
    for (let i = 0; i < 8; i++) ops.matmul(out, a, b);
  });
  for (let i = 0; i < 100_000; i++) some.launch();
  return out;
}

/** Resolves when the device has done a part of what it was given since `before`, its {@link Device.busyNanoseconds}. */
export async function begun(device: Device, before: number): Promise<void> {
  while (device.busyNanoseconds === before) await turn();
}
