import type { NetworkConfig } from '../model/network.js';
import type { Device, Tensor } from '../ops.js';

/** What every step of an exported model has, however it is run; letters as in ops.ts. */
export interface StepTensors {
  ids: Tensor; //               [T] i32
  positions: Tensor; //         [T] i32
  keys: Tensor; //              [L, T, G, D] of all layers, inserted together when the step ends
  values: Tensor; //            [L, T, G, D]
  utilities: Tensor | null; //  [L, T, G]; null in a dense model
}

/** Their memory, for up to `tokens` tokens. */
export class PairMemory {
  readonly #vectors: { ids: Tensor; positions: Tensor };
  readonly #stacks: { keys: Tensor; values: Tensor };
  readonly #utilities: Tensor | null;

  constructor(device: Device, { layers, kvHeads, headDim, spkv }: NetworkConfig, tokens: number) {
    const stack = () => device.tensor('f32', [layers, tokens, kvHeads, headDim]);
    this.#vectors = { ids: device.tensor('i32', [tokens]), positions: device.tensor('i32', [tokens]) };
    this.#stacks = { keys: stack(), values: stack() };
    this.#utilities = spkv ? device.tensor('f32', [layers, tokens, kvHeads]) : null;
  }

  take(tokens: number): StepTensors {
    return {
      ids: this.#vectors.ids.slice(0, 0, tokens),
      positions: this.#vectors.positions.slice(0, 0, tokens),
      keys: this.#stacks.keys.slice(1, 0, tokens),
      values: this.#stacks.values.slice(1, 0, tokens),
      utilities: this.#utilities?.slice(1, 0, tokens) ?? null,
    };
  }

  dispose(): void {
    for (const tensor of [...Object.values(this.#vectors), ...Object.values(this.#stacks), this.#utilities]) tensor?.dispose();
  }
}
