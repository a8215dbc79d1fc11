import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { SpkvError } from '../../lib/index.js';
import { GraphBuilder, SPKV } from '../../lib/onnx/graph.js';
import { loadCodec } from '../../lib/onnx/schema.js';
import { loadModel, ROUTES } from '../../lib/onnxruntime/index.js';
import { GraphSession } from '../../lib/onnxruntime/native-session.js';
import { chooseRoute } from '../../lib/onnxruntime/route.js';
import { findRuntime } from '../../lib/onnxruntime/runtime.js';
import { openDevice } from '../../lib/ops.js';
import { writeAttentionModel } from '../support/attention-model.js';
import { errorOf, expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';

const GEOMETRY = { heads: 4, kvHeads: 2, headDim: 8, window: 16 };
const root = temporaryDirectory();
let copies = 0;

/** An exported model that may be damaged. */
async function exported(): Promise<string> {
  const dir = join(root, String(copies++));
  await writeAttentionModel(dir, GEOMETRY);
  return dir;
}

async function write(path: string, graph: GraphBuilder): Promise<void> {
  writeFileSync(path, (await loadCodec()).encode(graph.build()));
}

describe('the installed onnxruntime-node', () => {
  const install = (version: string | undefined) => {
    const dir = join(root, `install-${copies++}`);
    mkdirSync(join(dir, 'node_modules/onnxruntime-node'), { recursive: true });
    if (version) writeFileSync(join(dir, 'node_modules/onnxruntime-node/package.json'), JSON.stringify({ name: 'onnxruntime-node', version }));
    return pathToFileURL(join(dir, 'here.js')).href;
  };

  test('is missing', () => expectError(() => findRuntime(install(undefined)), 'UNSUPPORTED', 'npm install onnxruntime-node'));

  test.each(['1.19.2', '0.30.0'])('is too old: %s', (version) => expectError(() => findRuntime(install(version)), 'UNSUPPORTED', version, 'too old', '1.20'));

  test('has no library for this platform: the parts are taken, and why is told', async () => {
    const runtime = await findRuntime(install('1.30.0'));
    const manifest = { graph: 'model.onnx', parts: ['part-0.onnx', 'part-1.onnx'] } as unknown as Parameters<typeof chooseRoute>[2];
    const warnings: string[] = [];
    expect(chooseRoute('auto', 'dir', manifest, runtime, (message) => warnings.push(message))).toBe('parts');
    expect(warnings).toEqual([expect.stringContaining(`has no library for ${process.platform}`)]);
    expect(() => chooseRoute('graph', 'dir', manifest, runtime)).toThrow('has no library for');
  });

  test('another library, and none', async () => {
    using device = openDevice('cpu');
    const dir = await exported();
    await expectError(() => GraphSession.open(device, 'build/Release/spkv.node', join(dir, 'model.onnx'), 1), 'NATIVE', 'OrtGetApiBase');
    await expectError(() => GraphSession.open(device, join(root, 'nothing.so'), join(dir, 'model.onnx'), 1), 'NATIVE', 'could not be opened', 'nothing.so');
  });
});

describe('directories', () => {
  test('a checkpoint', () => expectError(() => loadModel(MODEL_DIR), 'FILE', 'spkv-onnx.json'));

  test.each([['parts', 'graph'], ['graph', 'parts']] as const)('one without %s', async (missing, other) => {
    const dir = await exported();
    const path = join(dir, 'spkv-onnx.json');
    writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(path, 'utf8')) as object), [missing]: undefined }));
    await expectError(() => loadModel(dir, { route: missing }), 'FILE', `--form ${missing}`);
    const warnings: string[] = [];
    using model = await loadModel(dir, { onWarning: (message) => warnings.push(message) });
    expect(warnings.length).toBe(other === 'parts' ? 1 : 0);
    expect((await model.step([{ sequence: await model.createSequence(), ids: [1] }]))[0]).toHaveLength(8);
  });
});

describe.each(ROUTES)('%s', (route) => {
  const first = route === 'graph' ? 'model.onnx' : 'part-0.onnx';

  test('a file that is not there', async () => {
    const dir = await exported();
    rmSync(join(dir, first));
    await expectError(() => loadModel(dir, { route }), 'FILE', first);
  });

  test('a file that is no graph', async () => {
    const dir = await exported();
    writeFileSync(join(dir, first), 'no protobuf');
    await expectError(() => loadModel(dir, { route }), 'FILE', 'rotobuf');
  });

  test('an operator that onnxruntime does not know is named', async () => {
    const dir = await exported();
    const graph = new GraphBuilder('strange');
    graph.output('logits', graph.node('Frobnicate', [graph.input('input_ids', 'i64', ['T'])], {}, { domain: 'com.microsoft' }), 'f32', ['N', 8]);
    await write(join(dir, first), graph);
    await expectError(() => loadModel(dir, { route }), 'UNSUPPORTED', 'com.microsoft:Frobnicate');
  });

  test('an input that nobody gives is named', async () => {
    const dir = await exported();
    const graph = new GraphBuilder('strange');
    graph.output('logits', graph.node('Identity', [graph.input('attention_mask', 'f32', ['N', 8])]), 'f32', ['N', 8]);
    await write(join(dir, first), graph);
    await expectError(() => loadModel(dir, { route }), 'FILE', '"attention_mask"');
  });

  test('options', async () => {
    const dir = await exported();
    await expectError(() => loadModel(dir, { route: 'grpah' as never }), 'INVALID_ARGUMENT', 'did you mean "graph"');
    await expectError(() => loadModel(dir, { intraOpNumThreads: 0 }), 'INVALID_ARGUMENT', 'intraOpNumThreads');
    await expectError(() => loadModel(dir, { precision: 'f32' } as never), 'INVALID_ARGUMENT', 'precision');
    await expectError(() => loadModel(dir, { treads: 2 } as never), 'INVALID_ARGUMENT', 'did you mean "threads"');
    await expectError(() => loadModel(dir, { device: 'cuda:0' }), 'DEVICE', 'run on the CPU, not on cuda:0');
    await expectError(() => loadModel(dir, { device: 'cpi' }), 'INVALID_ARGUMENT', 'device');
    await expectError(() => loadModel(5 as never), 'INVALID_ARGUMENT', 'dir');
  });

  test('a signal ends the loading', async () => {
    const dir = await exported();
    const reason = new Error('enough');
    await expect(loadModel(dir, { route, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    // After ever more turns of the event loop, until one comes too late.
    for (let turns = 0, loaded = false; !loaded; turns = 8 * turns + 1) {
      const controller = new AbortController();
      let settled = false;
      const loading = loadModel(dir, { route, signal: controller.signal }).finally(() => (settled = true));
      loading.catch(() => {});
      for (let i = 0; i < turns && !settled; i++) await turn();
      controller.abort(reason);
      const [{ status, ...outcome }] = await Promise.allSettled([loading]);
      loaded = status === 'fulfilled';
      if ('value' in outcome) outcome.value.dispose();
      else expect(outcome.reason).toBe(reason);
    }
  });

  test('a full pool fails before anything has changed, and goes on when there is room', async () => {
    using device = openDevice('cpu');
    using model = await loadModel(await exported(), { route, device, kvMemory: 8 * device.pageBytes(GEOMETRY.headDim, 'f32') });
    const [a, b] = [await model.createSequence({ threshold: 0 }), await model.createSequence({ threshold: 0 })];
    const ids = Array.from({ length: 80 }, (_, i) => i % 8);
    await model.step([{ sequence: a, ids }]);
    await expectError(() => model.step([{ sequence: b, ids: [...ids, ...ids] }]), 'POOL_EXHAUSTED');
    expect((await b.stats()).length).toBe(0);
    await a.dispose();
    expect((await model.step([{ sequence: b, ids }]))[0]!.every(Number.isFinite)).toBe(true);
  });

  test('what is not a number is found, and names the layer', async () => {
    const dir = await exported();
    const graph = new GraphBuilder(first);
    const ids = graph.input('input_ids', 'i64', ['T']);
    const look = (width: number, value = 0) => graph.node('Gather', [graph.constant(new Float32Array(8 * width).fill(value), [8, width]), ids]);
    if (route === 'parts') {
      const outputs = { next_residual: look(8), query: look(32), key: look(16, NaN), value: look(16), utility: look(2) };
      for (const [name, value] of Object.entries(outputs)) graph.output(name, value, 'f32', ['T', 8]);
    } else {
      const rest = [graph.input('position_ids', 'i64', ['T']), graph.input('sequence_slots', 'i32', ['B']), graph.input('sequence_offsets', 'i32', ['O'])];
      const attributes = { layer: 0, layers: 1, num_heads: 4, kv_num_heads: 2, head_dim: 8, window: 16, scale: { float: 1 } };
      const context = graph.node('SelfPrunedAttention', [look(32), look(16, NaN), look(16), look(2), ...rest], attributes, { domain: SPKV });
      const logits = graph.node('Slice', [graph.node('Gather', [context, graph.input('logit_rows', 'i64', ['N'])]), graph.ints(0), graph.ints(8), graph.ints(1)]);
      graph.output('logits', logits, 'f32', ['N', 8]);
    }
    await write(join(dir, first), graph);
    using model = await loadModel(dir, { route });
    const sequence = await model.createSequence();
    await expectError(() => model.step([{ sequence, ids: [1, 2] }]), 'NON_FINITE', /layer 0/i);
    expect((await sequence.stats()).length).toBe(0);
  });
});

test('a graph that does not fit the manifest is refused by its first step', async () => {
  const dir = await exported();
  const path = join(dir, 'spkv-onnx.json');
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as { model: object; spkv: object };
  for (const [change, ...parts] of [
    [{ model: { ...manifest.model, headDim: 4 } }, 'The cache does not fit the graph', '2 KV heads of 8'],
    [{ spkv: { ...manifest.spkv, window: 20 } }, 'window 16'],
    [{ spkv: undefined }, 'Layer 0 has', 'utilities, unlike the model'],
    [{ model: { ...manifest.model, vocabSize: 9 } }, 'logits'],
  ] as const) {
    writeFileSync(path, JSON.stringify({ ...manifest, ...change }));
    using model = await loadModel(dir, { route: 'graph' });
    const sequence = await model.createSequence();
    const error = await errorOf(() => model.step([{ sequence, ids: [1, 2] }]));
    expect(error).toBeInstanceOf(SpkvError);
    for (const part of parts) expect(error.message).toContain(part);
    expect((await sequence.stats()).length).toBe(0);
  }
});
