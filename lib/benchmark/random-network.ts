import type { ModelConfig } from '../checkpoint/config.js';
import type { Llama } from '../model/forward.js';
import { inverseFrequencies } from '../model/rope.js';
import type { LayerWeights } from '../model/weights.js';
import * as ops from '../ops.js';
import { type Device, floatsToBf16, type Tensor } from '../ops.js';
import { normals, uniform } from '../random.js';

/** Random numbers from which all weights are cut: every row of a weight starts at another place. */
const NOISE = 1 << 22;

/**
 * A network with random bf16 weights that keep activations near one, as large as the real one. Rows are windows
 * into one vector of noise, so that making eight billion weights takes seconds; in memory they lie apart.
 */
export async function randomNetwork(
  device: Device, config: ModelConfig, onProgress?: (share: number) => void, signal?: AbortSignal,
): Promise<Llama> {
  const cutter = new Cutter(device);
  const { hiddenSize: C, intermediateSize: F, heads, kvHeads, headDim: D, vocabSize, qkNorm, spkv } = config;
  const ones = (width: number) => device.from(new Float32Array(width).fill(1));
  const layers: LayerWeights[] = [];
  for (let layer = 0; layer < config.layers; layer++) {
    signal?.throwIfAborted();
    layers.push({
      inputNorm: ones(C),
      qkv: ops.packWeight(cutter.cut((heads + 2 * kvHeads) * D + spkv!.predictorHiddenSize, C)),
      qkvBias: null,
      qNorm: qkNorm ? ones(D) : null,
      kNorm: qkNorm ? ones(D) : null,
      predictor: { weight: cutter.copy(kvHeads, spkv!.predictorHiddenSize), bias: device.tensor('f32', [kvHeads]) },
      out: ops.packWeight(cutter.cut(C, heads * D)),
      outBias: null,
      postNorm: ones(C),
      gateUp: ops.packWeight(cutter.cut(2 * F, C)),
      gateUpBias: null,
      down: ops.packWeight(cutter.cut(C, F)),
      downBias: null,
    });
    await device.synchronize();
    onProgress?.((layer + 1) / (config.layers + 1));
  }
  const embedding = cutter.copy(vocabSize, C, 1);
  const head = ops.packWeight(cutter.cut(vocabSize, C));
  await device.synchronize();
  onProgress?.(1);
  return {
    config,
    weights: { embedding, layers, finalNorm: ones(C), head, dense: false },
    inverseFrequencies: device.from(inverseFrequencies(config)),
  };
}

class Cutter {
  readonly #device: Device;
  readonly #noise = new Map<number, Tensor>();
  readonly #base = normals(NOISE, uniform(1));
  #start = 0;

  constructor(device: Device) {
    this.#device = device;
  }

  /** [rows, columns], a view of the noise; a product with it keeps the size of its input unless `scale` says otherwise. */
  cut(rows: number, columns: number, scale = 1 / Math.sqrt(columns)): Tensor {
    let noise = this.#noise.get(scale);
    if (!noise) {
      noise = this.#device.from(floatsToBf16(this.#base.map((value) => value * scale)));
      this.#noise.set(scale, noise);
    }
    // An odd step, so that rows of neighbouring weights differ.
    const step = Math.floor((NOISE - columns - 1) / rows / 2) | 1;
    this.#start = (this.#start + 997) % (NOISE - columns - (rows - 1) * step);
    return noise.view([rows, columns], [step, 1], this.#start);
  }

  copy(rows: number, columns: number, scale?: number): Tensor {
    const copy = this.#device.tensor('bf16', [rows, columns]);
    ops.copy(copy, this.cut(rows, columns, scale));
    return copy;
  }
}
