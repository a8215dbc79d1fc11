import type { NodeProto } from '../schema.js';

/** How the heads of a value lie: 'rows' [1, T, heads·D], 'heads' [1, heads, T, D], 'tokens' [1, T, heads, D]. */
export type Layout = 'rows' | 'heads' | 'tokens';

export interface Placed {
  value: string;
  layout: Layout;
}

/** Head counts of the attention of a model. */
export interface Heads {
  heads: number;
  kvHeads: number;
  headDim: number;
}

/** One attention of a source graph: where its inputs come from, and where its result goes. */
export interface AttentionSite {
  /** The node that stands for it in messages. */
  node: NodeProto;
  /** After norms and rotation, unless `rotary`. With `packed`, the heads of queries, keys and values one after another. */
  query: Placed;
  key: Placed;
  value: Placed;
  packed: boolean;
  /** Tables [positions, rotated/2] of a rotation that the attention does itself. */
  rotary?: { cos: string; sin: string; interleaved: number };
  /** The factor of scores. */
  scale: number;
  /** Layout 'rows' or 'heads'. */
  output: Placed;
}
