import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from '../../lib/checkpoint/safetensors-write.js';
import { floatsToHalves } from '../../lib/half.js';
import { loadModel } from '../../lib/index.js';
import { writeFolder } from '../../lib/onnx/folder.js';
import { exportOnnx, ONNX_DTYPES, type OnnxDtype, readManifest } from '../../lib/onnx/index.js';
import { loadCodec } from '../../lib/onnx/schema.js';
import { WeightsFile } from '../../lib/onnx/weights-file.js';
import { floatsToBf16 } from '../../lib/ops.js';
import { type Json, SPKV, tinyConfig, tinyTensors, writeRandomCheckpoint } from '../support/checkpoints.js';
import { maxDifference, random } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { golden, MODEL_DIR } from '../support/golden.js';
import { PartsModel } from '../support/onnx-parts.js';
import { closeOnnx } from '../support/onnx-session.js';

afterAll(closeOnnx);
const root = temporaryDirectory();

describe('how weights are stored', () => {
  const TOKENS = 200;
  /** Largest rise of the loss against the model itself, and size against f32. Measured: f16 0, int8 0.1 %, int4 3 %. */
  const BOUNDS: Record<OnnxDtype, { loss: number; size: number }> = {
    f32: { loss: 1e-4, size: 1 }, f16: { loss: 1e-4, size: 0.52 }, int8: { loss: 0.01, size: 0.32 }, int4: { loss: 0.08, size: 0.2 },
  };
  let ids: number[];
  let sizes: Record<string, number>;
  let expected: number;

  const loss = (logits: ArrayLike<number>) => {
    let sum = 0;
    for (let t = 0; t + 1 < TOKENS; t++) {
      const row = Array.from({ length: 320 }, (_, i) => logits[t * 320 + i]!);
      const largest = Math.max(...row);
      sum += largest + Math.log(row.reduce((total, logit) => total + Math.exp(logit - largest), 0)) - row[ids[t + 1]!]!;
    }
    return sum / (TOKENS - 1);
  };

  beforeAll(async () => {
    const data = await golden();
    ids = Array.from(data.ints('input_ids').subarray(0, TOKENS));
    expected = loss(data.floats('logits_hard'));
    sizes = {};
    for (const dtype of ONNX_DTYPES) {
      await exportOnnx(MODEL_DIR, join(root, dtype), { dtype, form: 'parts' });
      sizes[dtype] = statSync(join(root, dtype, 'weights.bin')).size;
    }
  });

  test.each(ONNX_DTYPES)('%s', async (dtype) => {
    const parts = await PartsModel.open(join(root, dtype));
    expect(parts.manifest.dtype).toBe(dtype);
    expect(Math.abs(loss(await parts.step(parts.sequence(), ids)) / expected - 1)).toBeLessThan(BOUNDS[dtype].loss);
    expect(sizes[dtype]! / sizes['f32']!).toBeLessThanOrEqual(BOUNDS[dtype].size);
  });

  // Share of the largest logit. These weights have no more digits than f16; measured are 3 % with int8, 21 % with int4,
  // since nothing averages out in a random network of 16 channels, and more than 100 % where biases are left out.
  test.each<[OnnxDtype, number]>([['f16', 1e-4], ['int8', 0.15], ['int4', 0.5]])('%s with biases', async (dtype, share) => {
    const config = tinyConfig('llama', { attention_bias: true, mlp_bias: true, tie_word_embeddings: true, spkv: SPKV });
    const { dir } = await writeRandomCheckpoint(join(root, `biases ${dtype}`), config, 1, 0.15);
    const out = join(root, `biases ${dtype} exported`);
    await exportOnnx(dir, out, { dtype });
    const uniform = random(3);
    const tokens = Array.from({ length: 30 }, () => Math.floor(uniform() * 48));
    const parts = await PartsModel.open(out);
    using model = await loadModel(dir, { device: 'cpu', cacheDtype: 'f32', kvMemory: 1 << 24 });
    const native = await model.stepAll(await model.createSequence({ threshold: 0 }), tokens);
    const largest = native.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const difference = maxDifference(await parts.step(parts.sequence(0), tokens), native) / largest;
    expect(difference).toBeLessThan(share);
  });
});

test('F32, BF16 and F16 checkpoints of the same values give the same file', async () => {
  // Sixty-fourths with 7 bits: all three types have them.
  const uniform = random(3);
  const config = tinyConfig('qwen3', { spkv: SPKV });
  const values = tinyTensors(config).map(({ shape }) => Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => Math.round(uniform() * 80 - 40) / 64));
  const encode = { F32: (x: Float32Array) => x, BF16: floatsToBf16, F16: floatsToHalves };
  const files: Buffer[] = [];
  for (const dtype of ['F32', 'BF16', 'F16'] as const) {
    const dir = join(root, `values ${dtype}`);
    mkdirSync(dir);
    writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
    await writeSafetensors(join(dir, 'model.safetensors'), tinyTensors(config).map((tensor, i) => ({ ...tensor, dtype, data: encode[dtype](values[i]!) })));
    await exportOnnx(dir, join(root, `values ${dtype} exported`));
    files.push(readFileSync(join(root, `values ${dtype} exported`, 'weights.bin')));
  }
  expect(files[0]!.equals(files[1]!)).toBe(true);
  expect(files[0]!.equals(files[2]!)).toBe(true);
});

/** A checkpoint in f32 with one value changed. */
async function withValue(name: string, value: number): Promise<string> {
  const dir = join(root, `value ${value}`);
  mkdirSync(dir);
  writeFileSync(join(dir, 'config.json'), JSON.stringify(tinyConfig()));
  const tensors = tinyTensors(tinyConfig()).map((tensor) => {
    const data = new Float32Array(tensor.shape.reduce((a, b) => a * b, 1)).fill(0.5);
    if (tensor.name === name) data[3] = value;
    return { ...tensor, dtype: 'F32' as const, data };
  });
  await writeSafetensors(join(dir, 'model.safetensors'), tensors);
  return dir;
}

test('values that a type cannot hold are refused by the name of their tensor, and nothing is left', async () => {
  const name = 'model.layers.1.mlp.up_proj.weight';
  const large = await withValue(name, 1e5);
  const out = join(root, 'values');
  await expectError(() => exportOnnx(large, out, { dtype: 'f16' }), 'UNSUPPORTED', name, /100000.*f16 cannot hold/);
  await exportOnnx(large, out, { dtype: 'int8' });
  const broken = await withValue(name, NaN);
  for (const dtype of ['int8', 'int4'] as const) await expectError(() => exportOnnx(broken, out, { dtype }), 'NON_FINITE', name, /NaN/);
  expect((await readManifest(out)).dtype).toBe('int8'); // the earlier one is still there
  expect(readdirSync(root).filter((entry) => entry.startsWith('.'))).toEqual([]);
});

describe('the directory', () => {
  let dir: string;
  const config: Json = tinyConfig('qwen3', { spkv: SPKV });
  beforeAll(async () => {
    ({ dir } = await writeRandomCheckpoint(join(root, 'plain'), config));
    writeFileSync(join(dir, 'tokenizer_config.json'), '{}');
  });

  test('has the graphs that were asked for, the config and the tokenizer', async () => {
    const out = join(root, 'new', 'nested');
    const common = ['config.json', 'spkv-onnx.json', 'tokenizer_config.json', 'weights.bin'];
    await exportOnnx(dir, out, { form: 'graph' });
    expect(readdirSync(out).sort()).toEqual([...common, 'model.onnx'].sort());
    await exportOnnx(dir, out, { form: 'parts' });
    expect(readdirSync(out).sort()).toEqual([...common, 'part-0.onnx', 'part-1.onnx', 'part-2.onnx'].sort());
    const manifest = await exportOnnx(dir, out);
    expect(readdirSync(out).sort()).toEqual([...common, 'model.onnx', 'part-0.onnx', 'part-1.onnx', 'part-2.onnx'].sort());
    expect(await readManifest(out)).toEqual(manifest);
    expect(manifest).toEqual({
      version: 1, dtype: 'f32', weights: 'weights.bin', graph: 'model.onnx', parts: ['part-0.onnx', 'part-1.onnx', 'part-2.onnx'],
      model: { layers: 2, heads: 4, kvHeads: 2, headDim: 8, hiddenSize: 16, vocabSize: 48, maxPositions: 256, bosTokenId: 1, eosTokenIds: [2] },
      spkv: { window: 16, threshold: 0.5 },
    });
  });

  test('that holds something else is refused', async () => {
    const other = join(root, 'other');
    mkdirSync(other);
    writeFileSync(join(other, 'thesis.tex'), 'two years');
    await expectError(() => exportOnnx(dir, other), 'FILE', /other: expected an empty directory or an earlier export/);
    await expectError(() => exportOnnx(dir, join(other, 'thesis.tex')), 'FILE', /found a file/);
    expect(readdirSync(other)).toEqual(['thesis.tex']);
  });

  test('is not there when the export was ended, and the caller gets the reason', async () => {
    const out = join(root, 'ended');
    const reason = new Error('enough');
    const controller = new AbortController();
    const shares: number[] = [];
    const running = exportOnnx(dir, out, {
      signal: controller.signal,
      onProgress: (share) => {
        shares.push(share);
        if (share > 0.5) controller.abort(reason);
      },
    });
    await expect(running).rejects.toBe(reason);
    await expect(exportOnnx(dir, out, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(shares.every((share, i) => share > (shares[i - 1] ?? 0) && share < 1)).toBe(true);
    expect(readdirSync(root).filter((name) => name.includes('ended'))).toEqual([]);
  });

  test('progress ends with everything', async () => {
    const shares: number[] = [];
    await exportOnnx(dir, join(root, 'progress'), { onProgress: (share) => shares.push(share) });
    expect(shares.at(-1)).toBe(1);
  });

  test('for which the disk has no room is refused before anything is written', async () => {
    const weights = new WeightsFile('weights.bin');
    weights.add('large', 'u8', [2 ** 50], () => []);
    const manifest = await exportOnnx(dir, join(root, 'small'));
    const content = { manifest, graphs: new Map(), weights, from: dir };
    const codec = await loadCodec();
    await expectError(() => writeFolder(join(root, 'full'), content, codec), 'FILE', /full: expected room of \d+ MiB on the disk, found \d+ MiB/);
    expect(readdirSync(root)).not.toContain('full');
  });

  test('warnings speak of predictors that are not there, and of tensors that nothing reads', async () => {
    const warnings: string[] = [];
    const { dir: dense } = await writeRandomCheckpoint(join(root, 'dense'), tinyConfig());
    await writeSafetensors(join(dense, 'model.safetensors'), [...tinyTensors(tinyConfig()), { name: 'rest', dtype: 'BF16', shape: [1], data: new Uint16Array(1) }]);
    await exportOnnx(dense, join(root, 'warned'), { onWarning: (message) => warnings.push(message) });
    expect(warnings).toEqual([expect.stringMatching(/no utility predictors.*runs dense/), expect.stringMatching(/1 tensors? .*not part of the exported model: rest/)]);
  });

  test('options are checked', async () => {
    const out = join(root, 'unwritten');
    await expectError(() => exportOnnx(dir, out, { dtype: 'int5' as OnnxDtype }), 'INVALID_ARGUMENT', /f32, f16, int8, int4 for dtype/);
    await expectError(() => exportOnnx(dir, out, { form: 'part' as 'parts' }), 'INVALID_ARGUMENT', /form.*did you mean "parts"/);
    await expectError(() => exportOnnx(dir, out, { type: 'f16' } as object), 'INVALID_ARGUMENT', /Unknown option "type"/);
    await expectError(() => exportOnnx(dir, 3 as unknown as string), 'INVALID_ARGUMENT', /out/);
    await expectError(() => exportOnnx(join(root, 'nowhere'), out), 'FILE', /nowhere/);
  });
});

describe('a manifest', () => {
  test.each<[string, (manifest: Json) => void, RegExp]>([
    ['of a later version', (manifest) => (manifest['version'] = 2), /"version" is 2, supported is 1/],
    ['without a model', (manifest) => delete manifest['model'], /"model"/],
    ['with too few parts', (manifest) => (manifest['parts'] as string[]).pop(), /an array of 3 file names for "parts"/],
    ['with a part elsewhere', (manifest) => ((manifest['parts'] as string[])[0] = '../part-0.onnx'), /"parts"/],
    ['with weights elsewhere', (manifest) => (manifest['weights'] = '/etc/passwd'), /"weights"/],
    ['without graphs', (manifest) => (delete manifest['parts'], delete manifest['graph']), /"graph"/],
    ['of an unknown type', (manifest) => (manifest['dtype'] = 'int2'), /"dtype"/],
    ['with heads that do not divide', (manifest) => ((manifest['model'] as Json)['kvHeads'] = 3), /"model\.kvHeads"/],
    ['without a window', (manifest) => (manifest['spkv'] = { threshold: 0.5 }), /"spkv\.window"/],
  ])('%s is refused', async (name, edit, message) => {
    const { dir } = await writeRandomCheckpoint(join(root, `manifest ${name}`), tinyConfig('llama', { spkv: SPKV }));
    const out = join(root, `manifest ${name} exported`);
    await exportOnnx(dir, out);
    const path = join(out, 'spkv-onnx.json');
    const manifest = JSON.parse(readFileSync(path, 'utf8')) as Json;
    edit(manifest);
    writeFileSync(path, JSON.stringify(manifest));
    await expectError(() => readManifest(out), name === 'of a later version' ? 'UNSUPPORTED' : 'FILE', message);
  });

  test('that is not there is asked for', () => expectError(() => readManifest(root), 'FILE', /spkv-onnx\.json: expected a file/));
});
