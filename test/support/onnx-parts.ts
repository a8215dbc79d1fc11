import { join } from 'node:path';
import { type OnnxManifest, readManifest } from '../../lib/onnx/index.js';
import { type OnnxTensor, runOnnx } from './onnx-session.js';
import { type Pair, ReferenceSequence } from './reference-attention.js';

const longs = (values: readonly number[]): OnnxTensor => ({ type: 'int64', data: BigInt64Array.from(values, BigInt), dims: [values.length] });

/** An exported model in parts, run by onnxruntime, with attention and cache as plain loops in float64. */
export class PartsModel {
  private constructor(
    readonly dir: string,
    readonly manifest: OnnxManifest,
  ) {}

  static async open(dir: string): Promise<PartsModel> {
    return new PartsModel(dir, await readManifest(dir));
  }

  sequence(threshold = this.manifest.spkv?.threshold ?? 0): ReferenceSequence {
    const { layers, kvHeads } = this.manifest.model;
    return new ReferenceSequence(layers * kvHeads, threshold);
  }

  /** Reads `ids` and gives the logits of the rows `wanted` of them (all), row after row. */
  async step(sequence: ReferenceSequence, ids: readonly number[], wanted: readonly number[] = [...ids.keys()]): Promise<Float32Array> {
    const { layers } = this.manifest.model;
    const start = sequence.length;
    const positions = longs(ids.map((_, i) => start + i));
    let feeds: Record<string, OnnxTensor> = { input_ids: longs(ids), position_ids: positions };
    const added: Pair[][][] = [];
    for (let layer = 0; layer < layers; layer++) {
      const outputs = await runOnnx(this.#part(layer), feeds);
      const { context, pairs } = this.#attend(sequence, layer, outputs);
      added.push(pairs);
      const last = layer === layers - 1;
      feeds = { context, residual: outputs['next_residual']!, ...(last ? { logit_rows: longs(wanted) } : { position_ids: positions }) };
    }
    const { logits } = await runOnnx(this.#part(layers), feeds);
    for (const [list, pairs] of added.flat().entries()) sequence.append(list, pairs, 'f32');
    return logits!.data as Float32Array;
  }

  #part(index: number): string {
    return join(this.dir, this.manifest.parts![index]!);
  }

  #attend(sequence: ReferenceSequence, layer: number, outputs: Record<string, OnnxTensor>): { context: OnnxTensor; pairs: Pair[][] } {
    const { heads, kvHeads, headDim } = this.manifest.model;
    const floats = (name: string) => outputs[name]!.data as Float32Array;
    const [query, key, value] = [floats('query'), floats('key'), floats('value')];
    const tokens = query.length / (heads * headDim);
    const start = sequence.length;
    const rows = (all: Float32Array, token: number, head: number) => all.slice((token * kvHeads + head) * headDim, (token * kvHeads + head + 1) * headDim);
    const pairs = Array.from({ length: kvHeads }, (_, head) =>
      Array.from({ length: tokens }, (_, token): Pair => ({
        key: rows(key, token, head),
        value: rows(value, token, head),
        utility: 'utility' in outputs ? floats('utility')[token * kvHeads + head]! : 1,
      })),
    );
    const context = new Float32Array(query.length);
    for (let token = 0; token < tokens; token++) {
      for (let head = 0; head < heads; head++) {
        const at = (token * heads + head) * headDim;
        const group = Math.floor((head * kvHeads) / heads);
        const { out } = sequence.attend(
          query.subarray(at, at + headDim), layer * kvHeads + group, pairs[group]!, start + token, this.manifest.spkv?.window ?? 1, headDim ** -0.5, 'f32',
        );
        context.set(out, at);
      }
    }
    return { context: { type: 'float32', data: context, dims: [tokens, heads * headDim] }, pairs };
  }
}
