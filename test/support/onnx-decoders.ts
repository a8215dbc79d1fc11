// Decoders as others export them, for batches [B, S], with a past that goes in and comes out.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { floatsToHalves } from '../../lib/half.js';
import { GraphBuilder, MICROSOFT } from '../../lib/onnx/graph.js';
import { quantize } from '../../lib/onnx/quantize.js';
import { loadCodec } from '../../lib/onnx/schema.js';
import { bf16ToFloats } from '../../lib/ops.js';
import type { Json } from './checkpoints.js';
import { type OnnxTensor, runOnnx } from './onnx-session.js';

/** How a decoder is exported. */
export interface Style {
  /**
   * 'gqa' and 'mha': GroupQueryAttention and MultiHeadAttention, as onnxruntime-genai's builder writes them; 'sdpa',
   * 'script' and 'eager': written out, as torch's first and second exporter do with scaled_dot_product_attention, and
   * without it; 'attention' and 'attention-rows': ai.onnx::Attention of heads [B, H, S, D] and of rows [B, S, H·D].
   */
  attention: 'gqa' | 'mha' | 'sdpa' | 'script' | 'eager' | 'attention' | 'attention-rows';
  /** GroupQueryAttention: rotates itself; and takes q, k and v as one. */
  rotates?: boolean;
  packed?: boolean;
  /** Cosines and sines from tables that are cut to the length of past and present, as in older models. */
  tables?: boolean;
  /** Everything in f16, and ids and positions in i32. */
  half?: boolean;
  /** Weights as MatMulNBits. */
  quantised?: boolean;
  /** The MLP reads what attention reads, and does not wait for it. */
  parallel?: boolean;
  /** Nodes have no names. */
  unnamed?: boolean;
  /** A factor of the scores other than 1 / sqrt(D). */
  scale?: number;
  /** Attributes of GroupQueryAttention that spkv does not honour. */
  attributes?: Record<string, number | { float: number }>;
}

type Weight = (name: string) => Float32Array;

/** Writes such a decoder beside the config.json in `dir`, with the weights of a checkpoint. Returns its path. */
export async function writeDecoder(dir: string, config: Json, tensors: ReadonlyMap<string, Uint16Array>, style: Style): Promise<string> {
  const decoder = new DecoderWriter(config, (name) => bf16ToFloats(tensors.get(name)!), (name) => tensors.has(name), style);
  const path = join(dir, 'model.onnx');
  const model = decoder.write().build();
  if (style.unnamed) for (const node of model.graph!.node!) delete node.name;
  writeFileSync(path, (await loadCodec()).encode(model));
  return path;
}

/** The logits of a whole text, by onnxruntime alone. */
export async function decoderLogits(path: string, config: Json, style: Style, ids: readonly number[]): Promise<Float32Array> {
  const longs = (values: readonly number[]): OnnxTensor => ({ type: 'int64', data: BigInt64Array.from(values, BigInt), dims: [1, values.length] });
  const past: OnnxTensor = style.half
    ? { type: 'float16', data: new Uint16Array(0), dims: [1, config['num_key_value_heads'] as number, 0, config['head_dim'] as number] }
    : { type: 'float32', data: new Float32Array(0), dims: [1, config['num_key_value_heads'] as number, 0, config['head_dim'] as number] };
  const integers = (values: readonly number[]): OnnxTensor => (style.half ? { type: 'int32', data: Int32Array.from(values), dims: [1, values.length] } : longs(values));
  const feeds: Record<string, OnnxTensor> = { input_ids: integers(ids), attention_mask: longs(ids.map(() => 1)) };
  if (!style.rotates) feeds['position_ids'] = integers([...ids.keys()]);
  for (let layer = 0; layer < (config['num_hidden_layers'] as number); layer++) for (const part of ['key', 'value']) feeds[`past_key_values.${layer}.${part}`] = past;
  const { logits } = await runOnnx(path, feeds);
  return logits!.data as Float32Array;
}

/** Names of the angles, tables and masks that all layers share. */
interface Shared {
  mask: string;
  cos: string;
  sin: string;
  lengths: string;
  total: string;
}

class DecoderWriter {
  readonly #g: GraphBuilder;
  readonly #type: 'f16' | 'f32';
  readonly #sizes: { H: number; G: number; D: number; C: number; F: number; L: number; V: number };

  constructor(
    private readonly config: Json,
    private readonly weight: Weight,
    private readonly has: (name: string) => boolean,
    private readonly style: Style,
  ) {
    const opset = style.attention.startsWith('attention') ? 23 : style.attention === 'script' ? 18 : 17;
    this.#g = new GraphBuilder('main_graph', { ir_version: 10, opset_import: [{ domain: '', version: opset }, { domain: MICROSOFT, version: 1 }] });
    this.#type = style.half ? 'f16' : 'f32';
    const size = (name: string) => config[name] as number;
    this.#sizes = {
      H: size('num_attention_heads'), G: size('num_key_value_heads'), D: size('head_dim'), C: size('hidden_size'), F: size('intermediate_size'),
      L: size('num_hidden_layers'), V: size('vocab_size'),
    };
  }

  /** Attention and norms are operators of onnxruntime. */
  get #fused(): boolean {
    return this.style.attention === 'gqa' || this.style.attention === 'mha';
  }

  write(): GraphBuilder {
    const g = this.#g;
    const { L, V } = this.#sizes;
    const integer = this.style.half ? 'i32' : 'i64';
    const ids = g.input('input_ids', integer, ['batch', 'sequence']);
    const attentionMask = g.input('attention_mask', 'i64', ['batch', 'total']);
    const shared = this.#shared(attentionMask, this.style.rotates ? undefined : g.input('position_ids', integer, ['batch', 'sequence']));
    let x = g.node('Gather', [this.#constant(this.weight('model.embed_tokens.weight'), [V, this.#sizes.C]), ids]);
    for (let layer = 0; layer < L; layer++) x = this.#layer(layer, x, shared);
    const head = this.config['tie_word_embeddings'] ? 'model.embed_tokens' : 'lm_head';
    g.output('logits', this.#cast(this.#project(head, this.#norm('model.norm.weight', x), V), 'f32'), 'f32', ['batch', 'sequence', V]);
    return g;
  }

  #layer(layer: number, x: string, shared: Shared): string {
    const g = this.#g;
    const { C, F } = this.#sizes;
    const at = (part: string) => `model.layers.${layer}.${part}`;
    const normed = this.#norm(at('input_layernorm.weight'), x);
    const attended = this.#project(at('self_attn.o_proj'), this.#attention(layer, normed, shared), C);
    const mlp = (input: string) => {
      const gate = this.#project(at('mlp.gate_proj'), input, F);
      const activated = g.node('Mul', [g.node('Mul', [gate, g.node('Sigmoid', [gate])]), this.#project(at('mlp.up_proj'), input, F)]);
      return this.#project(at('mlp.down_proj'), activated, C);
    };
    if (this.style.parallel) return g.node('Add', [g.node('Add', [attended, mlp(normed)]), x]);
    const middle = g.node('Add', [x, attended]);
    return g.node('Add', [middle, mlp(this.#norm(at('post_attention_layernorm.weight'), middle))]);
  }

  /** What attention gives, [B, S, H·D]. */
  #attention(layer: number, normed: string, shared: Shared): string {
    const g = this.#g;
    const { H, G, D } = this.#sizes;
    const past = ['key', 'value'].map((part) => g.input(`past_key_values.${layer}.${part}`, this.#type, ['batch', G, 'past', D])) as [string, string];
    const present = ['key', 'value'].map((part) => `present.${layer}.${part}`) as [string, string];
    const project = (name: string, heads: number) => this.#project(`model.layers.${layer}.self_attn.${name}_proj`, normed, heads * D);
    let [q, k, v] = [project('q', H), project('k', G), project('v', G)];
    for (const name of present) g.output(name, name, this.#type, ['batch', G, 'total', D]);
    if (this.style.attention === 'gqa') return this.#groupQuery(q, k, v, past, present, shared);
    if (this.style.attention === 'mha') return this.#multiHead(q, k, v, past, present, shared);

    // [B, heads, S, D], with sizes taken from the hidden state, as exporters of the views of PyTorch do.
    const dims = (axis: number) => g.node('Gather', [g.node('Shape', [normed]), g.ints(axis)]);
    const split = (value: string, heads: number) =>
      g.node('Transpose', [g.node('Reshape', [value, g.node('Concat', [dims(0), dims(1), g.ints(heads), g.ints(D)], { axis: 0 })])], { perm: [0, 2, 1, 3] });
    const norm = (name: string, value: string) => (this.has(`model.layers.${layer}.self_attn.${name}_norm.weight`) ? this.#norm(`model.layers.${layer}.self_attn.${name}_norm.weight`, value) : value);
    q = this.#rotate(norm('q', split(q, H)), shared);
    k = this.#rotate(norm('k', split(k, G)), shared);
    const valueRows = v;
    v = split(v, G);
    const flat = (value: string) => g.node('Reshape', [g.node('Transpose', [value], { perm: [0, 2, 1, 3] }), g.node('Concat', [dims(0), dims(1), g.ints(-1)], { axis: 0 })]);
    if (this.style.attention.startsWith('attention')) {
      return this.style.attention === 'attention'
        ? flat(this.#attentionNode([q, k, v], past, present, shared, {}))
        : this.#attentionNode([flat(q), flat(k), valueRows], past, present, shared, { q_num_heads: H, kv_num_heads: G });
    }
    g.node('Concat', [past[0], k], { axis: 2 }, { outputs: [present[0]] });
    g.node('Concat', [past[1], v], { axis: 2 }, { outputs: [present[1]] });
    return flat(this.#writtenOut(q, present[0], present[1], shared));
  }

  #groupQuery(q: string, k: string, v: string, past: [string, string], present: [string, string], { cos, sin, lengths, total }: Shared): string {
    const g = this.#g;
    const { H, G } = this.#sizes;
    const rotate = (value: string, heads: number) => g.node('RotaryEmbedding', [value, 'position_ids', cos, sin], { num_heads: heads, interleaved: 0 }, { domain: MICROSOFT });
    if (!this.style.rotates) [q, k] = [rotate(q, H), rotate(k, G)];
    const inputs = this.style.packed ? [g.node('Concat', [q, k, v], { axis: 2 }), '', ''] : [q, k, v];
    const output = g.fresh('attention');
    g.node(
      'GroupQueryAttention', [...inputs, ...past, lengths, total, ...(this.style.rotates ? [cos, sin] : [])],
      { num_heads: H, kv_num_heads: G, do_rotary: this.style.rotates ? 1 : 0, ...(this.style.scale !== undefined && { scale: { float: this.style.scale } }), ...this.style.attributes },
      { domain: MICROSOFT, outputs: [output, ...present] },
    );
    return output;
  }

  #multiHead(q: string, k: string, v: string, past: [string, string], present: [string, string], { cos, sin, mask }: Shared): string {
    const g = this.#g;
    const { H } = this.#sizes;
    const rotate = (value: string) => g.node('RotaryEmbedding', [value, 'position_ids', cos, sin], { num_heads: H }, { domain: MICROSOFT });
    const output = g.fresh('attention');
    g.node('MultiHeadAttention', [rotate(q), rotate(k), v, '', '', mask, ...past], { num_heads: H }, { domain: MICROSOFT, outputs: [output, ...present] });
    return output;
  }

  #attentionNode(inputs: string[], past: [string, string], present: [string, string], { mask }: Shared, heads: Record<string, number>): string {
    const output = this.#g.fresh('attention');
    this.#g.node('Attention', [...inputs, mask, ...past], heads, { outputs: [output, ...present] });
    return output;
  }

  /** [B, H, S, D] */
  #writtenOut(q: string, keys: string, values: string, { mask }: Shared): string {
    const g = this.#g;
    const { D } = this.#sizes;
    const scale = this.style.scale ?? D ** -0.5;
    let k = this.#repeated(keys);
    const v = this.#repeated(values);
    const size = (value: string, axis: number) => g.node('Shape', [value], { start: axis, ...(axis < -1 && { end: axis + 1 }) });
    if (this.style.attention === 'script') {
      const flat = g.node('Reshape', [k, g.node('Concat', [g.ints(-1), size(k, -2), size(k, -1)], { axis: 0 })]);
      const turned = g.node('Transpose', [flat], { perm: [0, 2, 1] });
      k = g.node('Reshape', [turned, g.node('Concat', [g.node('Shape', [k], { end: -2 }), size(k, -1), size(k, -2)], { axis: 0 })]);
    } else {
      k = g.node('Transpose', [k], { perm: [0, 1, 3, 2] });
    }
    let scores: string;
    if (this.style.attention === 'eager') {
      scores = g.node('Div', [g.node('MatMul', [q, k]), this.#constant(Float32Array.of(1 / scale), [])]);
    } else {
      // The square root of the scale on either side, from the size of a head.
      const script = this.style.attention === 'script';
      const wide = g.node('Cast', [script ? size(q, -1) : g.node('Slice', [g.node('Shape', [q]), g.ints(-1), g.ints(2 ** 31)])], { to: this.#type === 'f16' ? 10 : 1 });
      const root = g.node('Sqrt', [g.node('Div', [this.#constant(Float32Array.of(scale * Math.sqrt(D)), [1]), g.node('Sqrt', [wide])])]);
      scores = g.node('MatMul', [g.node('Mul', [q, root]), g.node('Mul', [k, script ? g.node('CastLike', [root, k]) : root])]);
    }
    let weights = g.node('Softmax', [g.node('Add', [scores, mask])], { axis: -1 });
    // Rows that see nothing, as torch's exporter guards them.
    if (this.style.attention === 'sdpa') weights = g.node('Where', [g.node('IsNaN', [weights]), this.#constant(Float32Array.of(0), []), weights]);
    return g.node('MatMul', [weights, v]);
  }

  /** [B, H, total, D]: every KV head for all its query heads. */
  #repeated(value: string): string {
    const g = this.#g;
    const { H, G, D } = this.#sizes;
    if (H === G) return value;
    const shape = g.node('Shape', [value]);
    const dim = (axis: number) => g.node('Gather', [shape, g.ints(axis)]);
    const wide = g.node('Concat', [dim(0), g.ints(G), g.ints(H / G), dim(2), g.ints(D)], { axis: 0 });
    const axis = this.style.attention === 'script' ? g.node('Cast', [g.ints(2)], { to: 7 }) : g.ints(2);
    const expanded = g.node('Expand', [g.node('Unsqueeze', [value, axis]), wide]);
    return g.node('Reshape', [expanded, g.node('Concat', [dim(0), g.ints(H), dim(2), g.ints(D)], { axis: 0 })]);
  }

  #rotate(x: string, { cos, sin }: Shared): string {
    const g = this.#g;
    const half = this.#sizes.D / 2;
    const slice = (from: number, to: number) => g.node('Slice', [x, g.ints(from), g.ints(to), g.ints(3)]);
    const turned = g.node('Concat', [g.node('Neg', [slice(half, 2 ** 31)]), slice(0, half)], { axis: -1 });
    return g.node('Add', [g.node('Mul', [x, cos]), g.node('Mul', [turned, sin])]);
  }

  #shared(attentionMask: string, positions: string | undefined): Shared {
    const g = this.#g;
    const int32 = (value: string) => g.node('Cast', [value], { to: 6 });
    const total = g.node('Gather', [g.node('Shape', [attentionMask]), g.constant(BigInt64Array.of(1n), [])]);
    const lengths = int32(g.node('Sub', [g.node('ReduceSum', [attentionMask, g.ints(1)], { keepdims: 1 }), g.ints(1)]));
    return { ...this.#angles(positions), mask: this.style.attention === 'gqa' ? '' : this.#mask(total), lengths, total: int32(total) };
  }

  #angles(positions: string | undefined): { cos: string; sin: string } {
    const g = this.#g;
    const { D } = this.#sizes;
    const frequencies = Array.from({ length: D / 2 }, (_, i) => (this.config['rope_theta'] as number) ** ((-2 * i) / D));
    if (this.#fused) {
      const table = (f: (x: number) => number) => this.#constant(Float32Array.from({ length: 128 * frequencies.length }, (_, i) => f(Math.floor(i / frequencies.length) * frequencies[i % frequencies.length]!)), [128, frequencies.length]);
      return { cos: table(Math.cos), sin: table(Math.sin) };
    }
    if (this.style.tables) {
      const length = g.node('Add', [g.node('Gather', [g.node('Shape', ['past_key_values.0.key']), g.ints(2)]), g.node('Gather', [g.node('Shape', ['input_ids']), g.ints(1)])]);
      const rows = (f: (x: number) => number) => {
        const table = this.#constant(Float32Array.from({ length: 128 * D }, (_, i) => f(Math.floor(i / D) * frequencies[i % (D / 2)]!)), [1, 1, 128, D]);
        const cut = g.node('Slice', [table, g.ints(0), length, g.ints(2)]);
        const flat = g.node('Squeeze', [g.node('Squeeze', [cut, g.ints(1)]), g.ints(0)]);
        return g.node('Unsqueeze', [g.node('Gather', [flat, positions!]), g.ints(1)]);
      };
      return { cos: rows(Math.cos), sin: rows(Math.sin) };
    }
    const column = g.node('Cast', [g.node('Unsqueeze', [positions!, g.ints(2)])], { to: 1 });
    const angles = g.node('MatMul', [column, g.constant(Float32Array.from(frequencies), [1, frequencies.length])]);
    const both = g.node('Concat', [angles, angles], { axis: -1 });
    const spread = (op: string) => this.#cast(g.node('Unsqueeze', [g.node(op, [both]), g.ints(1)]), this.#type);
    return { cos: spread('Cos'), sin: spread('Sin') };
  }

  /** [1, 1, S, total]: 0 where a token may look, a large negative number elsewhere. */
  #mask(total: string): string {
    const g = this.#g;
    const range = (end: string) => g.node('Range', [g.constant(BigInt64Array.of(0n), []), end, g.constant(BigInt64Array.of(1n), [])]);
    const tokens = g.node('Gather', [g.node('Shape', ['input_ids']), g.constant(BigInt64Array.of(1n), [])]);
    const rows = g.node('Unsqueeze', [g.node('Add', [range(tokens), g.node('Sub', [total, tokens])]), g.ints(1)]);
    const later = g.node('Greater', [g.node('Unsqueeze', [range(total), g.ints(0)]), rows]);
    const mask = g.node('Where', [later, this.#constant(Float32Array.of(-60000), []), this.#constant(Float32Array.of(0), [])]);
    return g.node('Unsqueeze', [mask, g.ints(0, 1)]);
  }

  #norm(name: string, x: string): string {
    const g = this.#g;
    const weight = this.weight(name);
    const epsilon = this.config['rms_norm_eps'] as number;
    if (this.#fused) return g.node('SimplifiedLayerNormalization', [x, this.#constant(weight, [weight.length])], { epsilon: { float: epsilon } });
    const wide = g.node('Cast', [x], { to: 1 });
    const squares = g.node('Pow', [wide, g.constant(Float32Array.of(2), [])]);
    // Since opset 18 axes are an input.
    const mean = ['sdpa', 'eager'].includes(this.style.attention) ? g.node('ReduceMean', [squares], { axes: [-1] }) : g.node('ReduceMean', [squares, g.ints(-1)]);
    const scaled = g.node('Div', [wide, g.node('Sqrt', [g.node('Add', [mean, g.constant(Float32Array.of(epsilon), [])])])]);
    return g.node('Mul', [this.#constant(weight, [weight.length]), this.#cast(scaled, this.#type)]);
  }

  /** x · Wᵀ + b */
  #project(name: string, input: string, outputs: number): string {
    const g = this.#g;
    const weight = this.weight(`${name}.weight`);
    const inputs = weight.length / outputs;
    // Without batches, as torch's second exporter does it.
    const flat = this.style.attention === 'script';
    const x = flat ? g.node('Reshape', [input, g.ints(-1, inputs)]) : input;
    const bias = this.has(`${name}.bias`) ? this.#constant(this.weight(`${name}.bias`), [outputs]) : undefined;
    let product: string;
    if (this.style.quantised) {
      const { packed, scales } = quantize(weight, inputs, 8);
      const b = g.tensor({ name: `${name}.packed`, dims: [outputs, Math.ceil(inputs / 32), 32], data_type: 2, raw_data: packed });
      product = g.node('MatMulNBits', [x, b, this.#constant(scales, [scales.length])], { K: inputs, N: outputs, bits: 8, block_size: 32, accuracy_level: 4 }, { domain: MICROSOFT });
    } else {
      const turned = Float32Array.from({ length: weight.length }, (_, i) => weight[(i % outputs) * inputs + Math.floor(i / outputs)]!);
      product = g.node('MatMul', [x, this.#constant(turned, [inputs, outputs])]);
    }
    if (flat) product = g.node('Reshape', [product, g.node('Concat', [g.node('Shape', [input], { start: 0, end: 2 }), g.ints(outputs)], { axis: 0 })]);
    return bias === undefined ? product : g.node('Add', [product, bias]);
  }

  #constant(data: Float32Array, shape: readonly number[]): string {
    if (this.#type === 'f32') return this.#g.constant(data, shape);
    const halves = floatsToHalves(data);
    return this.#g.tensor({ name: this.#g.fresh('half'), dims: [...shape], data_type: 10, raw_data: new Uint8Array(halves.buffer) });
  }

  #cast(value: string, to: 'f16' | 'f32'): string {
    return this.#type === 'f32' && to === 'f32' ? value : this.#g.node('Cast', [value], { to: to === 'f16' ? 10 : 1 });
  }
}
