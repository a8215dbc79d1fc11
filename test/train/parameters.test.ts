import { join } from 'node:path';
import { mkdirSync, writeFileSync } from 'node:fs';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { writeSafetensors } from '../../lib/checkpoint/safetensors-write.js';
import { planTensors, weightPlan } from '../../lib/checkpoint/weights.js';
import { bf16ToFloats } from '../../lib/ops.js';
import { Layout } from '../../lib/train/layout.js';
import { Parameters } from '../../lib/train/parameters.js';
import { SPKV, tinyConfig, writeRandomCheckpoint } from '../support/checkpoints.js';
import { testDevice } from '../support/device.js';
import { temporaryDirectory } from '../support/files.js';
import { expectSame } from '../support/operands.js';

const device = testDevice();
const root = temporaryDirectory();
const config = (family: 'llama' | 'qwen2' | 'qwen3', changes = {}) => parseConfig(tinyConfig(family, { spkv: SPKV, ...changes }), 'config.json');

const deviation = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);

describe('the layout', () => {
  test.each(['llama', 'qwen2', 'qwen3'] as const)('of %s holds every tensor once, and its segments everything', (family) => {
    const layout = new Layout(config(family));
    const names = layout.parts.filter(({ group }) => group !== 'constant').map(({ name }) => name);
    expect(names.sort()).toEqual(planTensors(weightPlan(layout.config)).map(({ name }) => name).sort());
    let end = 0;
    for (const { offset, shape } of layout.parts) {
      expect(offset).toBeGreaterThanOrEqual(end);
      end = offset + shape.reduce((a, b) => a * b, 1);
    }
    expect(layout.size).toBeGreaterThanOrEqual(end);
    expect(layout.blocks.map(({ name }) => name)).toEqual(['the embedding', 'layer 0', 'layer 1', 'the output']);
    for (const part of layout.parts) {
      const segments = layout.blocks.flatMap((block) => block.segments).filter(({ start, end: stop }) => start <= part.offset && part.offset < stop);
      expect(segments.map(({ group }) => group)).toEqual([part.group]);
    }
  });
});

describe('parameters', () => {
  test('are drawn by seed and name: matrices of deviation 0.02, less at the end of a branch, gates open', async () => {
    const wide = config('llama', { hidden_size: 64, intermediate_size: 128 });
    using parameters = await Parameters.random(device, wide, 7);
    const read = (name: string) => parameters.layout.part(parameters.values, name).readFloats();
    expect(deviation(await read('model.layers.0.mlp.gate_proj.weight'))).toBeCloseTo(0.02, 2);
    expect(deviation(await read('model.layers.1.mlp.down_proj.weight')) / (0.02 / Math.sqrt(4))).toBeCloseTo(1, 1);
    expect(deviation(await read('model.layers.1.self_attn.o_proj.weight')) / (0.02 / Math.sqrt(4))).toBeCloseTo(1, 1);
    expect((await read('model.layers.0.input_layernorm.weight')).every((value) => value === 1)).toBe(true);
    expect(Array.from(await read('model.layers.0.self_attn.utility_predictor.fc2.bias'))).toEqual([5, 5]);
    expect((await read('model.layers.0.self_attn.utility_predictor.fc1.bias')).every((value) => value === 0)).toBe(true);
    using same = await Parameters.random(device, wide, 7);
    expectSame(await same.values.readFloats(), await parameters.values.readFloats());
    using other = await Parameters.random(device, wide, 8);
    expect(await other.values.readFloats()).not.toEqual(await parameters.values.readFloats());
    expect(parameters.count).toBe(planTensors(weightPlan(wide)).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0));
  });

  test('of a checkpoint go back into one, bit for bit', async () => {
    const json = tinyConfig('qwen2', { spkv: SPKV });
    const { dir, tensors } = await writeRandomCheckpoint(join(root, 'whole'), json);
    const checkpoint = await openCheckpoint(dir);
    using parameters = await Parameters.load(checkpoint, device, checkpoint.config, 0);
    expect(checkpoint.unread()).toEqual([]);
    const again = join(root, 'again');
    mkdirSync(again);
    writeFileSync(join(again, 'config.json'), JSON.stringify(json));
    await writeSafetensors(join(again, 'model.safetensors'), parameters.tensors('BF16'), { format: 'pt' });
    using read = await Parameters.load(await openCheckpoint(again), device, checkpoint.config, 0);
    expectSame(await read.values.readFloats(), await parameters.values.readFloats());
    for (const [name, bits] of tensors) expectSame(await read.layout.part(read.values, name).readFloats(), bf16ToFloats(bits));
    const f32 = parameters.tensors('F32').find(({ name }) => name === 'model.norm.weight')!;
    expect(await (f32.data as () => Promise<Float32Array>)()).toEqual(bf16ToFloats(tensors.get('model.norm.weight')!));
  });

  test('of a dense checkpoint get predictors where the config wants them', async () => {
    const { dir, tensors } = await writeRandomCheckpoint(join(root, 'dense'), tinyConfig('llama'));
    const checkpoint = await openCheckpoint(dir);
    using parameters = await Parameters.load(checkpoint, device, config('llama'), 5);
    const read = (name: string) => parameters.layout.part(parameters.values, name).readFloats();
    for (const [name, bits] of tensors) expectSame(await read(name), bf16ToFloats(bits));
    expect(deviation(await read('model.layers.1.self_attn.utility_predictor.fc1.weight'))).toBeCloseTo(0.02, 2);
    expect(Array.from(await read('model.layers.1.self_attn.utility_predictor.fc2.bias'))).toEqual([5, 5]);
    using dense = await Parameters.load(checkpoint, device, checkpoint.config, 5);
    expect(dense.weights.dense).toBe(true);
    expect(dense.layout.parts.some(({ group }) => group === 'predictor')).toBe(false);
  });
});
