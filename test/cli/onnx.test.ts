import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Json, tinyConfig, writeRandomCheckpoint } from '../support/checkpoints.js';
import { jsonLines, spkv } from '../support/cli.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';
import { writeDecoder } from '../support/onnx-decoders.js';

const root = temporaryDirectory();

test('export-onnx writes a model and says what', async () => {
  const out = join(root, 'exported');
  const plain = await spkv(['export-onnx', '--out', out, '--dtype', 'int4', '--form', 'parts']);
  expect(plain).toEqual({ code: 0, stdout: expect.stringMatching(/^Wrote .*exported: 9 parts, weights int4\.\n$/), stderr: '' });
  expect(readdirSync(out)).toEqual(expect.arrayContaining(['part-8.onnx', 'tokenizer.json', 'weights.bin']));
  const json = await spkv(['export-onnx', '--model', MODEL_DIR, '--out', out, '--json']);
  expect(jsonLines<Json>(json)[0]).toMatchObject({ dtype: 'f32', graph: 'model.onnx', model: { layers: 8 }, spkv: { window: 128 } });
});

test('adapt-onnx rewrites a decoder, and refuses what it does not understand', async () => {
  const config = tinyConfig('llama', { head_dim: 16 });
  const { dir, tensors } = await writeRandomCheckpoint(join(root, 'decoder'), config);
  const path = await writeDecoder(dir, config, tensors, { attention: 'gqa', rotates: true });
  const out = join(root, 'adapted');
  const done = await spkv(['adapt-onnx', path, '--window', '64', '--first', '4', '--out', out]);
  expect(done).toEqual({ code: 0, stdout: expect.stringMatching(/^Wrote .*adapted: 3 parts and one graph \(model\.onnx\)\.\n$/), stderr: '' });

  const refused = join(root, 'refused');
  await writeDecoder(dir, config, tensors, { attention: 'gqa', rotates: true, attributes: { softcap: { float: 20 } } });
  const { code, stderr } = await spkv(['adapt-onnx', path, '--out', refused]);
  expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(/^spkv: UNSUPPORTED: .*node "GroupQueryAttention_\d+".*softcap 20/) });
  expect(existsSync(refused)).toBe(false);
});

test('without its package it says what to install', async () => {
  const out = join(root, 'without');
  const result = await spkv(['export-onnx', '--out', out], { missing: 'protobufjs' });
  expect(result).toEqual({ code: 1, stdout: '', stderr: expect.stringMatching(/^spkv: UNSUPPORTED: .*not installed; install it with: npm install protobufjs\n$/) });
  expect(existsSync(out)).toBe(false);
});

test('usage', async () => {
  expect(await spkv(['adapt-onnx', '--out', root])).toMatchObject({ code: 2, stderr: expect.stringMatching(/missing required argument 'model'/) });
  expect(await spkv(['export-onnx'])).toMatchObject({ code: 2, stderr: expect.stringMatching(/--out/) });
  const contradiction = await spkv(['adapt-onnx', 'model.onnx', '--out', join(root, 'x'), '--threshold', '0.4']);
  expect(contradiction).toMatchObject({ code: 2, stderr: expect.stringMatching(/--threshold/) });
});
