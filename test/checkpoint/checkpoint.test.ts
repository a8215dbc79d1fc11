import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { writeSafetensors } from '../../lib/checkpoint/safetensors-write.js';
import { SPKV, tinyConfig, tinyTensors, writeTinyCheckpoint, type Json } from '../support/checkpoints.js';
import { expectError, survives } from '../support/errors.js';
import { damage, temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';

const root = temporaryDirectory();
let count = 0;
const freshDir = () => join(root, `${count++}`);
const config = tinyConfig('llama', { spkv: SPKV });
const indexOf = (dir: string) => join(dir, 'model.safetensors.index.json');

/** Rewrites the JSON file at `path`. */
// oxlint-disable-next-line no-explicit-any -- the tests break the file in ways that have no type
function edit(path: string, change: (json: any) => unknown): void {
  const json = JSON.parse(readFileSync(path, 'utf8')) as Json;
  writeFileSync(path, JSON.stringify(change(json) ?? json));
}

test('opens the golden model', async () => {
  const checkpoint = await openCheckpoint(MODEL_DIR);
  expect(checkpoint.config.spkv?.window).toBe(128);
  expect(checkpoint.hasTokenizer).toBe(true);
  expect(checkpoint.files).toEqual([join(MODEL_DIR, 'model.safetensors')]);
  expect(checkpoint.bytes).toBe(12246096 - 11824);
  expect(checkpoint.unread()).toHaveLength(106);
});

test('sharded and single checkpoints hold the same tensors', async () => {
  const single = await openCheckpoint(await writeTinyCheckpoint(freshDir(), config));
  const sharded = await openCheckpoint(await writeTinyCheckpoint(freshDir(), config, 3));
  expect(sharded.files).toHaveLength(3);
  expect(new Set(sharded.tensors.keys())).toEqual(new Set(single.tensors.keys()));
  expect(sharded.unlisted).toEqual([]);
  expect(sharded.hasTokenizer).toBe(false);
});

test('follows links, as a download cache has them', async () => {
  const source = await writeTinyCheckpoint(freshDir(), config);
  const dir = freshDir();
  mkdirSync(dir);
  for (const name of ['config.json', 'model.safetensors']) symlinkSync(join(source, name), join(dir, name));
  expect((await openCheckpoint(dir)).tensors.size).toBeGreaterThan(0);
});

test('remembers which tensors were read', async () => {
  const checkpoint = await openCheckpoint(await writeTinyCheckpoint(freshDir(), config));
  const tensors = tinyTensors(config);
  for (const { name, shape } of tensors.slice(1)) expect(checkpoint.tensor(name, shape)).toMatchObject({ name, shape, dtype: 'BF16' });
  expect(checkpoint.unread()).toEqual([tensors[0]!.name]);
});

test('a buffer that follows from the config does not count as unread', async () => {
  const dir = await writeTinyCheckpoint(freshDir(), config);
  await writeSafetensors(join(dir, 'model.safetensors'), [
    { name: 'model.layers.0.self_attn.rotary_emb.inv_freq', dtype: 'F32', shape: [2], data: new Float32Array(2) },
    { name: 'extra', dtype: 'F32', shape: [], data: new Float32Array(1) },
  ]);
  expect((await openCheckpoint(dir)).unread()).toEqual(['extra']);
});

test('a missing tensor or another shape names file, tensor, expected and found', async () => {
  const dir = await writeTinyCheckpoint(freshDir(), config);
  const checkpoint = await openCheckpoint(dir);
  const file = join(dir, 'model.safetensors');
  await expectError(() => checkpoint.tensor('model.norm.weight', [17]), 'FILE', file, 'shape [17] for tensor "model.norm.weight", found shape [16]');
  await expectError(() => checkpoint.tensor('model.norm.weight', [16, 1]), 'FILE', 'found shape [16]');
  await expectError(() => checkpoint.tensor('model.nrm.weight', [16]), 'FILE', file, '"model.nrm.weight", found no such tensor');
  expect(checkpoint.unread()).toContain('model.norm.weight');
});

test('names what is missing', async () => {
  await expectError(() => openCheckpoint(7 as never), 'INVALID_ARGUMENT', 'dir');
  await expectError(() => openCheckpoint(join(root, 'absent')), 'FILE', 'expected a checkpoint directory, found nothing');
  await expectError(() => openCheckpoint('package.json'), 'FILE', 'expected a checkpoint directory, found a file');
  const dir = freshDir();
  mkdirSync(dir);
  await expectError(() => openCheckpoint(dir), 'FILE', join(dir, 'config.json'), 'found nothing');
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
  await expectError(() => openCheckpoint(dir), 'FILE', 'expected model.safetensors or model.safetensors.index.json, found neither');
  writeFileSync(join(dir, 'pytorch_model.bin'), '');
  await expectError(() => openCheckpoint(dir), 'FILE', 'found only pytorch_model.bin');
  mkdirSync(join(dir, 'model.safetensors'));
  await expectError(() => openCheckpoint(dir), 'FILE', 'found a directory');
});

describe('generation_config.json', () => {
  test('goes before config.json', async () => {
    const dir = await writeTinyCheckpoint(freshDir(), config);
    const write = (json: unknown) => writeFileSync(join(dir, 'generation_config.json'), JSON.stringify(json));
    write({ eos_token_id: [4, 5], bos_token_id: 3 });
    expect((await openCheckpoint(dir)).config).toMatchObject({ bosTokenId: 3, eosTokenIds: [4, 5] });
    write({ temperature: 0.6 });
    expect((await openCheckpoint(dir)).config).toMatchObject({ bosTokenId: 1, eosTokenIds: [2] });
    write({ eos_token_id: 'end' });
    await expectError(() => openCheckpoint(dir), 'FILE', 'generation_config.json', '"eos_token_id", found "end"');
  });
});

describe('the index of shards', () => {
  let source: string;
  let dir: string;
  beforeAll(async () => {
    source = await writeTinyCheckpoint(freshDir(), config, 2);
  });
  beforeEach(() => {
    dir = freshDir();
    cpSync(source, dir, { recursive: true });
  });
  const shard = (n: number) => join(dir, `model-0000${n}-of-00002.safetensors`);

  test('must have a weight_map', async () => {
    for (const value of [undefined, null, [], 'x']) {
      edit(indexOf(dir), (json) => ({ ...json, weight_map: value }));
      await expectError(() => openCheckpoint(dir), 'FILE', indexOf(dir), '"weight_map"');
    }
  });

  test.each(['../model.safetensors', '/etc/model.safetensors', 'a/b.safetensors', 'a\\b.safetensors', 'c:b.safetensors', '..', '', 3, null, 'model.bin', 'x\0.safetensors'])(
    'may not name the shard %j',
    async (name) => {
      edit(indexOf(dir), (json) => ({ weight_map: { ...json.weight_map, 'model.norm.weight': name } }));
      await expectError(() => openCheckpoint(dir), 'FILE', indexOf(dir), 'tensor "model.norm.weight"', 'a .safetensors file beside it');
    },
  );

  test('may not name a shard that is missing or damaged', async () => {
    writeFileSync(shard(1), readFileSync(shard(1)).subarray(0, 400));
    await expectError(() => openCheckpoint(dir), 'FILE', shard(1), 'truncated');
    rmSync(shard(1));
    await expectError(() => openCheckpoint(dir), 'FILE', shard(1), 'found nothing');
  });

  test('may not name a tensor that is not in its shard', async () => {
    edit(indexOf(dir), (json) => ({ weight_map: { ...json.weight_map, ghost: 'model-00002-of-00002.safetensors' } }));
    await expectError(() => openCheckpoint(dir), 'FILE', shard(2), 'tensor "ghost"', 'found no such tensor');
  });

  test('reports tensors that it does not list', async () => {
    edit(indexOf(dir), (json) => {
      delete json.weight_map['model.norm.weight'];
    });
    const checkpoint = await openCheckpoint(dir);
    expect(checkpoint.unlisted.map(({ name }) => name)).toEqual(['model.norm.weight']);
    expect(checkpoint.tensors.has('model.norm.weight')).toBe(false);
    expect(checkpoint.unread().at(-1)).toMatch(/^model\.norm\.weight \(in .*safetensors, not in the index\)$/);
  });

  test('damaged, it gives a valid result or a file error', async () => {
    const original = readFileSync(indexOf(source));
    await fc.assert(
      fc.asyncProperty(damage(original.length), (change) => {
        writeFileSync(indexOf(dir), change(original));
        return survives(() => openCheckpoint(dir));
      }),
      { numRuns: 300 },
    );
  });
});

test('a damaged config.json gives a valid result or a file error', async () => {
  const dir = await writeTinyCheckpoint(freshDir(), config);
  const original = readFileSync(join(dir, 'config.json'));
  await fc.assert(
    fc.asyncProperty(damage(original.length), (change) => {
      writeFileSync(join(dir, 'config.json'), change(original));
      return survives(() => openCheckpoint(dir));
    }),
    { numRuns: 300 },
  );
});
