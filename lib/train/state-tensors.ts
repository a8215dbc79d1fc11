import { join } from 'node:path';
import { readSafetensorsHeader } from '../checkpoint/safetensors.js';
import type { TensorToWrite } from '../checkpoint/safetensors-write.js';
import { mismatch } from '../files.js';
import { show } from '../json.js';
import * as ops from '../ops.js';
import type { Tensor } from '../ops.js';
import { STATE_TENSORS } from './checkpoints.js';
import type { Part } from './layout.js';
import type { Optimizer } from './optimizer.js';

/** The vectors from which training goes on exactly where it was: by the names of the weights, in f32. */
function vectorsOf({ parameters, momentum, variance }: Optimizer): [name: string, vector: Tensor][] {
  return [['value', parameters.values], ['momentum', momentum], ['variance', variance]];
}

function trainedParts({ parameters }: Optimizer): Part[] {
  return parameters.layout.parts.filter(({ group }) => group !== 'constant');
}

/** Each is read from the device when its turn comes. */
export function stateTensors(optimizer: Optimizer): TensorToWrite[] {
  return vectorsOf(optimizer).flatMap(([kind, vector]) =>
    trainedParts(optimizer).map(({ name, shape }) => ({
      name: `${kind}.${name}`, dtype: 'F32' as const, shape, data: () => optimizer.parameters.layout.part(vector, name).readFloats(),
    })),
  );
}

/** Puts weights and optimiser back to where they were when the checkpoint in `dir` was written. Errors: FILE. */
export async function restoreState(optimizer: Optimizer, dir: string, step: number): Promise<void> {
  const path = join(dir, STATE_TENSORS);
  const { tensors } = await readSafetensorsHeader(path);
  const { device, layout } = optimizer.parameters;
  for (const [kind, vector] of vectorsOf(optimizer)) {
    for (const { name, shape } of trainedParts(optimizer)) {
      const found = tensors.get(`${kind}.${name}`);
      const fits = found?.dtype === 'F32' && show(found.shape) === show(shape);
      if (!fits) throw mismatch(path, `tensor "${kind}.${name}"`, `F32 ${show(shape)}`, found ? `${found.dtype} ${show(found.shape)}` : 'no such tensor');
      using source = device.map(path, found.offset, 'f32', shape);
      ops.copy(layout.part(vector, name), source);
    }
    await device.synchronize();
  }
  optimizer.parameters.refresh();
  optimizer.steps = step;
  await device.synchronize();
}
