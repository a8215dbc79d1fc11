import type { NodeProto, TensorProto } from '../schema.js';

/** What stands between the slice of a table and the rows that are taken from it. */
const BETWEEN = ['Cast', 'Identity', 'Squeeze'];

/**
 * Older models cut their tables of cosines and sines to the length of past and present, then take the rows of the
 * positions. The whole table has the same rows, and needs no length of a past: such a Slice becomes an Identity.
 */
export function wholeTables(nodes: readonly NodeProto[], constants: ReadonlyMap<string, TensorProto>): NodeProto[] {
  const consumers = new Map<string, NodeProto[]>();
  for (const node of nodes) for (const name of node.input ?? []) consumers.set(name, [...(consumers.get(name) ?? []), node]);

  const onlyRowsTaken = (value: string, steps = 6): boolean => {
    const users = consumers.get(value) ?? [];
    return steps > 0 && users.length > 0 && users.every(({ op_type, input, output, attribute }) => {
      if (op_type === 'Gather') return input![0] === value && Number(attribute?.find(({ name }) => name === 'axis')?.i ?? 0) === 0;
      return BETWEEN.includes(op_type ?? '') && onlyRowsTaken(output![0]!, steps - 1);
    });
  };
  return nodes.map((node) => {
    const [data, starts, ends] = node.input ?? [];
    const cut = node.op_type === 'Slice' && constants.has(data ?? '') && ends !== undefined && !constants.has(ends);
    if (!cut || !isZero(constants.get(starts ?? '')) || !onlyRowsTaken(node.output?.[0] ?? '')) return node;
    return { ...node, op_type: 'Identity', input: [data!], attribute: [] };
  });
}

/** Whether a constant is one zero. */
function isZero(tensor: TensorProto | undefined): boolean {
  if (!tensor) return false;
  if (tensor.raw_data?.length) return tensor.raw_data.length <= 8 && tensor.raw_data.every((byte) => byte === 0);
  return tensor.int64_data?.length === 1 && Number(tensor.int64_data[0]) === 0;
}
