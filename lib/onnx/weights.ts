import type { Checkpoint } from '../checkpoint/checkpoint.js';
import type { TensorRef } from '../checkpoint/weights.js';
import { SpkvError } from '../errors.js';
import { floatsToHalves } from '../half.js';
import { floatPieces } from './floats.js';
import { type GraphBuilder, MICROSOFT } from './graph.js';
import { BLOCK, blocksPerRow, quantize } from './quantize.js';
import type { StoredTensor, WeightsFile } from './weights-file.js';

const { abs } = Math; // in loops over every weight of a model
/** The largest number that an f32 holds. */
const LARGEST = 3.4028234663852886e38;

/** How the matrices of an exported model are stored. Vectors and predictors are f32 always. */
export const ONNX_DTYPES = ['f32', 'f16', 'int8', 'int4'] as const;
export type OnnxDtype = (typeof ONNX_DTYPES)[number];

/** The weights of a checkpoint, as graphs use them. A tensor gets its place in the file when it is used first. */
export class Weights {
  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly file: WeightsFile,
    private readonly dtype: OnnxDtype,
  ) {}

  /** A tensor in f32. */
  floats(graph: GraphBuilder, ref: TensorRef): string {
    return graph.weight(this.#stored(ref, 'f32'));
  }

  /** Rows of the embedding table [V, C] for ids [T]. */
  rows(graph: GraphBuilder, table: TensorRef, ids: string): string {
    const half = this.dtype !== 'f32';
    const rows = graph.node('Gather', [graph.weight(this.#stored(table, half ? 'f16' : 'f32')), ids]);
    return half ? graph.node('Cast', [rows], { to: 1 }) : rows;
  }

  /** x [T, K] · weight [N, K]ᵀ + bias, with the weight as `dtype` says. */
  product(graph: GraphBuilder, x: string, weight: TensorRef, bias?: TensorRef): string {
    if (this.dtype === 'f32') return graph.node('Gemm', [x, this.floats(graph, weight), ...this.#bias(graph, bias)], { transB: 1 });
    if (this.dtype === 'f16') {
      const widened = graph.node('Cast', [graph.weight(this.#stored(weight, 'f16'))], { to: 1 });
      return graph.node('Gemm', [x, widened, ...this.#bias(graph, bias)], { transB: 1 });
    }
    // DynamicQuantizeLinear with MatMulInteger is faster, but has one scale for all rows of x: what a text gets would
    // depend on what else is in the step.
    const bits = this.dtype === 'int4' ? 4 : 8;
    const { packed, scales } = this.#blocks(weight, bits);
    const [N, K] = weight.shape as [number, number];
    return graph.node(
      'MatMulNBits',
      [x, graph.weight(packed), graph.weight(scales), ...(bias ? ['', '', ...this.#bias(graph, bias)] : [])],
      { K, N, bits, block_size: BLOCK, accuracy_level: 4 },
      { domain: MICROSOFT },
    );
  }

  #bias(graph: GraphBuilder, bias: TensorRef | undefined): string[] {
    return bias ? [this.floats(graph, bias)] : [];
  }

  #stored(ref: TensorRef, element: 'f32' | 'f16'): StoredTensor {
    const name = element === 'f32' ? ref.name : `${ref.name}.${element}`;
    const there = this.file.get(name);
    if (there) return there;
    const info = this.checkpoint.tensor(ref.name, ref.shape);
    return this.file.add(name, element, ref.shape, async function* () {
      for await (const floats of floatPieces(info)) {
        yield bytesOf(element === 'f32' ? floats : finiteHalves(floats, ref.name));
      }
    });
  }

  #blocks(ref: TensorRef, bits: 4 | 8): { packed: StoredTensor; scales: StoredTensor } {
    const names = { packed: `${ref.name}.int${bits}`, scales: `${ref.name}.scales` };
    const there = this.file.get(names.packed);
    if (there) return { packed: there, scales: this.file.get(names.scales)! };
    const info = this.checkpoint.tensor(ref.name, ref.shape);
    const [n, k] = ref.shape as [number, number];
    let scales: Float32Array[] = [];
    return {
      packed: this.file.add(names.packed, 'u8', [n, blocksPerRow(k), (BLOCK * bits) / 8], async function* () {
        for await (const floats of floatPieces(info, k)) {
          checkFinite(floats, ref.name);
          const blocks = quantize(floats, k, bits);
          scales.push(blocks.scales);
          yield blocks.packed;
        }
      }),
      scales: this.file.add(names.scales, 'f32', [n * blocksPerRow(k)], function* () {
        yield* scales.map(bytesOf);
        scales = [];
      }),
    };
  }
}

function bytesOf(array: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function finiteHalves(floats: Float32Array, name: string): Uint16Array {
  const halves = floatsToHalves(floats);
  let at = 0;
  while (at < halves.length && (halves[at]! & 0x7c00) !== 0x7c00) at++;
  if (at < halves.length) throw new SpkvError('UNSUPPORTED', `Tensor "${name}" has the value ${floats[at]}, which f16 cannot hold; export as f32, int8 or int4`);
  return halves;
}

function checkFinite(floats: Float32Array, name: string): void {
  let at = 0;
  while (at < floats.length && abs(floats[at]!) <= LARGEST) at++;
  if (at < floats.length) throw new SpkvError('NON_FINITE', `Tensor "${name}" has the value ${floats[at]}`);
}
