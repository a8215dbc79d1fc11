import { invalid } from '../../check.js';
import { readSafetensorsHeader, type TensorInfo } from '../../checkpoint/safetensors.js';
import { mismatch } from '../../files.js';
import { show } from '../../json.js';
import { floatPieces } from '../floats.js';
import type { Geometry } from '../forms.js';
import type { GraphBuilder } from '../graph.js';
import { predictUtility, type PredictorWeights } from '../predictor.js';
import type { WeightsFile } from '../weights-file.js';

/** Where the utilities of an adapted model come from. */
export interface Utilities {
  /** Tokens of the window; undefined where everything is kept. */
  readonly window: number | undefined;
  /** Whether they are made from hidden states. */
  readonly predicted: boolean;
  /** Utilities [T, G] of a layer; undefined where everything is kept. */
  of(graph: GraphBuilder, layer: number, hidden: () => string, positions: string): string | undefined;
}

/** Everything is kept. */
export const DENSE: Utilities = { window: undefined, predicted: false, of: () => undefined };

/** The window and the first tokens are kept, whatever they say. */
export function fixedPolicy(window: number, first: number, { kvHeads }: Geometry): Utilities {
  return {
    window,
    predicted: false,
    of(graph, _layer, _hidden, positions) {
      const kept = graph.node('Cast', [graph.node('Less', [positions, graph.constant(BigInt64Array.of(BigInt(first)), [])])], { to: 1 });
      return graph.node('Expand', [graph.node('Unsqueeze', [kept, graph.ints(1)]), graph.ints(1, kvHeads)]);
    },
  };
}

const PARTS = ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias'] as const;

/**
 * Predictors from a .safetensors file, under the names of an spkv checkpoint:
 * model.layers.{i}.self_attn.utility_predictor.fc1.weight and so on. Errors: FILE.
 */
export async function readPredictors(path: string, window: number, geometry: Geometry, file: WeightsFile): Promise<Utilities> {
  const { tensors } = await readSafetensorsHeader(path);
  const layers = Array.from({ length: geometry.layers }, (_, layer) => layerPredictor(path, tensors, layer, geometry));
  return {
    window,
    predicted: true,
    of(graph, layer, hidden) {
      const [fc1Weight, fc1Bias, fc2Weight, fc2Bias] = layers[layer]!.map((tensor) => graph.weight(
        file.get(tensor.name) ?? file.add(tensor.name, 'f32', tensor.shape, () => floatBytes(tensor)),
      ));
      return predictUtility(graph, hidden(), { fc1Weight, fc1Bias, fc2Weight, fc2Bias } as PredictorWeights);
    },
  };
}

function layerPredictor(path: string, tensors: ReadonlyMap<string, TensorInfo>, layer: number, { hiddenSize, kvHeads }: Geometry): TensorInfo[] {
  const name = (part: string) => `model.layers.${layer}.self_attn.utility_predictor.${part}`;
  const width = tensors.get(name('fc1.bias'))?.shape[0] ?? 0;
  const shapes = [[width, hiddenSize], [width], [kvHeads, width], [kvHeads]];
  return PARTS.map((part, i) => {
    const tensor = tensors.get(name(part));
    if (!tensor) throw mismatch(path, `tensor "${name(part)}"`, 'a utility predictor for every layer of the model', 'no such tensor');
    if (tensor.shape.join() !== shapes[i]!.join()) throw mismatch(path, `tensor "${name(part)}"`, `shape ${show(shapes[i])}`, `shape ${show(tensor.shape)}`);
    return tensor;
  });
}

async function* floatBytes(tensor: TensorInfo): AsyncGenerator<Uint8Array> {
  for await (const floats of floatPieces(tensor)) yield new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
}

/** Errors: INVALID_ARGUMENT, where options contradict each other. */
export function checkPolicy({ predictors, first, threshold }: { predictors?: string | undefined; first?: number | undefined; threshold?: number | undefined }): void {
  if (predictors !== undefined && first !== undefined) throw invalid('nothing, where there are predictors,', 'first', first);
  if (predictors === undefined && threshold !== undefined) throw invalid('nothing, where there are no predictors,', 'threshold', threshold);
}
