import type { NodeProto } from '../schema.js';
import type { Heads, Placed } from './site.js';
import { inputsOf, type SourceGraph } from './source-graph.js';

/** Operators that pass values on as they are. */
const NEUTRAL = ['Identity', 'Cast', 'Dropout'];

/**
 * The new keys or values of a step, from what attention reads of them, [1, H, past + T, D]: back through the
 * repetition for the query heads of a group and the concatenation with the past. An attention that is `grouped` may
 * do without the repetition. Errors: UNSUPPORTED.
 */
export function keyValue(source: SourceGraph, attention: NodeProto, value: string, { heads, kvHeads }: Heads, grouped = false): Placed {
  let at = skipNeutral(source, value);
  let repeated = false;
  let past = false;
  for (;;) {
    const reshape = source.producerOf(at, 'Reshape');
    const expand = reshape && source.producerOf(skipNeutral(source, reshape.input![0]!), 'Expand');
    const concat = source.producerOf(at, 'Concat');
    const pastInput = concat && concat.input!.findIndex((input) => comesFromInput(source, input));
    if (expand && !repeated) {
      at = beforeRepetition(source, attention, expand);
      repeated = true;
    } else if (concat && pastInput !== undefined && pastInput >= 0 && !past) {
      if (concat.input!.length !== 2 || pastInput !== 0) throw source.refuse(concat, 'is not the past, then what is new');
      at = skipNeutral(source, concat.input![1]!);
      past = true;
    } else {
      break;
    }
  }
  if (repeated !== (heads !== kvHeads) && !(grouped && !repeated)) {
    throw source.refuse(attention, `has ${repeated ? '' : 'no '}keys or values that are repeated, but config.json says ${heads} query and ${kvHeads} KV heads`);
  }
  return { value: at, layout: 'heads' };
}

export function skipNeutral(source: SourceGraph, value: string): string {
  let at = value;
  for (let node = source.producerOf(at, ...NEUTRAL); node; node = source.producerOf(at, ...NEUTRAL)) at = node.input![0]!;
  return at;
}

/** [1, G, T, D] from [1, G, repeats, T, D]: heads of a group lie side by side, as spkv has them. */
function beforeRepetition(source: SourceGraph, attention: NodeProto, expand: NodeProto): string {
  let at = skipNeutral(source, expand.input![0]!);
  // hidden[:, :, None, :, :] leaves slices behind that take everything.
  for (let slice = source.producerOf(at, 'Slice'); slice; slice = source.producerOf(at, 'Slice')) at = slice.input![0]!;
  const unsqueeze = source.producerOf(at, 'Unsqueeze');
  const axes = unsqueeze && source.list(unsqueeze, 'axes', 1);
  if (axes?.length !== 1 || ![2, -3].includes(axes[0]!)) throw source.refuse(attention, 'repeats keys or values in a way that spkv does not know');
  at = unsqueeze!.input![0]!;
  for (let slice = source.producerOf(at, 'Slice'); slice; slice = source.producerOf(at, 'Slice')) at = slice.input![0]!;
  return skipNeutral(source, at);
}

/** Whether a value is an input of the graph, but for its type and its sizes. */
function comesFromInput(source: SourceGraph, value: string): boolean {
  let at = value;
  for (let node = source.producer(at); node; node = source.producer(at)) {
    if (![...NEUTRAL, 'Slice', 'Reshape', 'Transpose', 'Gather', 'Split', 'Squeeze'].includes(node.op_type ?? '')) return false;
    at = inputsOf(node)[0]!;
  }
  return source.inputs.has(at);
}
