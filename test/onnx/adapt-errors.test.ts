import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { adaptOnnx } from '../../lib/onnx/index.js';
import { loadCodec, type ModelProto } from '../../lib/onnx/schema.js';
import { tinyConfig, writeRandomCheckpoint } from '../support/checkpoints.js';
import { expectError, survives } from '../support/errors.js';
import { damage, temporaryDirectory } from '../support/files.js';
import { decoderLogits, type Style, writeDecoder } from '../support/onnx-decoders.js';
import { PartsModel } from '../support/onnx-parts.js';
import { closeOnnx } from '../support/onnx-session.js';
import { maxDifference } from '../support/device.js';

afterAll(closeOnnx);
const root = temporaryDirectory();
const CONFIG = tinyConfig('llama', { head_dim: 16 });
let checkpoints = 0;

async function decoder(style: Style, config = CONFIG): Promise<{ dir: string; path: string }> {
  const { dir, tensors } = await writeRandomCheckpoint(join(root, `checkpoint ${checkpoints++}`), config);
  return { dir, path: await writeDecoder(dir, config, tensors, style) };
}

/** Changes the model in a file. */
async function change(path: string, edit: (model: ModelProto) => void): Promise<void> {
  const codec = await loadCodec();
  const model = codec.decode(readFileSync(path));
  edit(model);
  writeFileSync(path, codec.encode(model));
}

const node = (model: ModelProto, operator: string) => model.graph!.node!.find(({ op_type }) => op_type === operator)!;
const out = () => join(root, `out ${checkpoints++}`);

describe('a graph that is not understood is refused with the name of the node', () => {
  test.each<[string, Record<string, number | { float: number }>, RegExp]>([
    ['a local window', { local_window_size: 64 }, /"GroupQueryAttention_\d+".*local window/],
    ['a soft cap', { softcap: { float: 30 } }, /"GroupQueryAttention_\d+".*softcap 30/],
    ['a smooth softmax', { smooth_softmax: 1 }, /"GroupQueryAttention_\d+".*smooth_softmax 1/],
  ])('%s', async (_, attributes, message) => {
    const { path } = await decoder({ attention: 'gqa', attributes });
    await expectError(() => adaptOnnx(path, out()), 'UNSUPPORTED', message);
  });

  test.each<[string, Style['attention'], (model: ModelProto) => void, RegExp]>([
    ['a bias of scores', 'gqa', (model) => node(model, 'GroupQueryAttention').input!.push('', '', '', 'input_ids'), /"GroupQueryAttention_\d+".*the input 10/],
    ['another number of heads', 'gqa', (model) => (node(model, 'GroupQueryAttention').attribute![0]!.i = 8), /"GroupQueryAttention_\d+".*8 query and 2 KV heads, but config\.json says 4 and 2/],
    ['another kind of attention', 'gqa', (model) => (node(model, 'GroupQueryAttention').op_type = 'SparseAttention'), /"GroupQueryAttention_\d+" \(SparseAttention\)/],
    ['a Softmax of something else', 'sdpa', (model) => (node(model, 'Softmax').op_type = 'LogSoftmax'), /1 attentions.*config\.json says 2 layers/],
    ['attention that is cut short', 'sdpa', (model) => (node(model, 'Softmax').input = ['input_ids']), /1 attentions.*not understood: node "Softmax_\d+"/],
    ['keys that are not transposed', 'sdpa', (model) => {
      for (const one of model.graph!.node!) if (one.op_type === 'Transpose' && one.attribute![0]!.ints!.join() === '0,1,3,2') one.op_type = 'Identity';
    }, /"Softmax_\d+".*keys that are not transposed/],
    ['a mask that something else needs', 'sdpa', (model) => (model.graph!.node!.find(({ input }) => input![1] === 'input_ids')!.input![1] = 'attention_mask'), /"Gather_\d+".*needs the input "attention_mask"/],
    ['a past that something else needs', 'gqa', (model) => {
      const gate = model.graph!.node!.filter(({ op_type }) => op_type === 'MatMul')[4]!;
      gate.input![0] = 'past_key_values.0.key';
    }, /"MatMul_\d+".*needs the input "past_key_values\.0\.key"/],
    ['no ids', 'gqa', (model) => (model.graph!.input![0]!.name = 'inputs_embeds'), /input_ids/],
    ['a fixed number of tokens', 'gqa', (model) => (model.graph!.input![0]!.type!.tensor_type!.shape!.dim![1] = { dim_value: 30 }), /"input_ids" has 30 tokens always/],
    ['logits of one token', 'gqa', (model) => (model.graph!.output!.find(({ name }) => name === 'logits')!.type!.tensor_type!.shape!.dim![1] = { dim_value: 1 }), /"logits" has one token always/],
    ['layers in branches', 'sdpa', (model) => {
      const { node: nodes, ...rest } = model.graph!;
      const branch = { name: 'then_branch', type: 5, g: { name: 'then', node: nodes!, output: rest.output! } };
      model.graph = { ...rest, node: [{ name: 'merged', op_type: 'If', input: ['use_cache'], output: rest.output!.map(({ name }) => name!), attribute: [branch] }] };
    }, /"merged" \(If\) has the layers in its branches/],
    ['no logits', 'gqa', (model) => (model.graph!.output = model.graph!.output!.filter(({ name }) => name !== 'logits')), /"logits"/],
    ['an old operator set', 'gqa', (model) => (model.opset_import![0]!.version = 11), /operator set.*11/],
  ])('%s', async (_, attention, edit, message) => {
    const { path } = await decoder({ attention });
    await change(path, edit);
    const dir = out();
    await expectError(() => adaptOnnx(path, dir), 'UNSUPPORTED', message);
    expect(existsSync(dir)).toBe(false);
  });

  test('a window that config.json speaks of', async () => {
    const { dir, path } = await decoder({ attention: 'sdpa' });
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...CONFIG, sliding_window: 100 }));
    await expectError(() => adaptOnnx(path, out()), 'UNSUPPORTED', /sliding_window/);
  });
});

describe('weights in files of their own', () => {
  /** Moves the large tensors of a model to `weights`, as exporters do with models of 2 GiB. */
  async function externalise(path: string, location = 'model.onnx_data'): Promise<void> {
    const pieces: Uint8Array[] = [];
    let offset = 0;
    await change(path, (model) => {
      for (const tensor of model.graph!.initializer!) {
        const data = tensor.raw_data!;
        if (data.byteLength < 256) continue;
        const at = [{ key: 'location', value: location }, { key: 'offset', value: String(offset) }, { key: 'length', value: String(data.byteLength) }];
        Object.assign(tensor, { raw_data: undefined, data_location: 1, external_data: at });
        pieces.push(new Uint8Array(data));
        offset += data.byteLength;
      }
    });
    writeFileSync(join(path, '..', 'model.onnx_data'), Buffer.concat(pieces));
  }

  test('are read', async () => {
    const style: Style = { attention: 'gqa', rotates: true };
    const { path } = await decoder(style);
    await externalise(path);
    const ids = [1, 9, 33, 4, 7];
    const dir = out();
    await adaptOnnx(path, dir);
    const parts = await PartsModel.open(dir);
    const expected = await decoderLogits(path, CONFIG, style, ids);
    expect(maxDifference(await parts.step(parts.sequence(), ids), expected)).toBeLessThan(1e-3);
  });

  test('that are cut short, missing, or elsewhere are refused, and nothing is left', async () => {
    const { path } = await decoder({ attention: 'gqa' });
    await externalise(path);
    const dir = out();
    const data = join(path, '..', 'model.onnx_data');
    writeFileSync(data, readFileSync(data).subarray(0, -100));
    await expectError(() => adaptOnnx(path, dir), 'FILE', /model\.onnx_data/);
    expect(existsSync(dir)).toBe(false);
    for (const location of ['../model.onnx_data', '/etc/passwd', '']) {
      const { path: other } = await decoder({ attention: 'gqa' });
      await externalise(other, location);
      await expectError(() => adaptOnnx(other, dir), 'FILE', /no file beside it/);
    }
    expect(existsSync(dir)).toBe(false);
  });
});

test('files that are no models are refused', async () => {
  const dir = join(root, 'no models');
  mkdirSync(dir);
  const path = join(dir, 'model.onnx');
  await expectError(() => adaptOnnx(path, out()), 'FILE', /model\.onnx: expected an ONNX file, found none/);
  for (const content of ['', 'no protobuf at all', Buffer.alloc(100, 0xff), Buffer.alloc(100)]) {
    writeFileSync(path, content);
    await expectError(() => adaptOnnx(path, out()), 'FILE', /model\.onnx: expected an ONNX model/);
  }
});

test.each<Style['attention']>(['gqa', 'sdpa'])('damaged files (%s) are refused or adapted, never a crash', async (attention) => {
  const { path } = await decoder({ attention });
  const whole = readFileSync(path);
  const dir = out();
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(damage(whole.byteLength), async (spoil) => {
      writeFileSync(path, spoil(whole));
      await survives(async () => {
        refused++;
        await adaptOnnx(path, dir, { form: 'parts', first: 2 });
        refused--;
      });
    }),
    { numRuns: 150 },
  );
  expect(refused).toBeGreaterThan(20);
});
