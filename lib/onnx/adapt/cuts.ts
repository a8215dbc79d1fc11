import type { NodeProto } from '../schema.js';
import type { AttentionSite } from './site.js';
import { inputsOf, outputsOf, type SourceGraph } from './source-graph.js';

/** Inputs of a decoder that the rewritten graphs have too. */
export const IDS = 'input_ids';
export const POSITIONS = 'position_ids';

/**
 * What a value depends on: nothing ('free'), positions or sizes alone ('positions'), another input of the graph, such
 * as a mask ('foreign'), or the tokens: then `stage` counts the layers whose attention it comes after.
 */
export type Origin = { kind: 'free' } | { kind: 'positions' } | { kind: 'foreign'; input: string } | { kind: 'tokens'; stage: number };

const FREE: Origin = { kind: 'free' };

/** The source graph, cut at its attention. */
export class Cuts {
  /** The value that goes past the attention of each layer: the residual stream. */
  readonly carried: readonly string[];
  readonly #origins = new Map<string, Origin>();
  readonly #after: ReadonlyMap<string, number>;

  /**
   * `sites` in the order of their layers. Errors: UNSUPPORTED, where more than one value goes past an attention, or
   * something beside attention needs what only attention has.
   */
  constructor(
    readonly source: SourceGraph,
    readonly sites: readonly AttentionSite[],
    logits: string,
  ) {
    this.#after = new Map(sites.map(({ output }, layer) => [output.value, layer + 1]));
    this.#findOrigins();
    const needed = this.#needed(logits);
    this.#refuseOtherInputs(needed);
    this.carried = sites.map((site, layer) => this.#carriedPast(layer, site, needed));
  }

  origin(value: string): Origin {
    return this.#origins.get(value) ?? FREE;
  }

  /** The layer that makes `value` by its attention, if any. */
  attentionOf(value: string): number | undefined {
    const stage = this.#after.get(value);
    return stage === undefined ? undefined : stage - 1;
  }

  /** The inputs of a node that depend on tokens. */
  tokenInputs(node: NodeProto): string[] {
    return inputsOf(node).filter((name) => this.origin(name).kind === 'tokens');
  }

  #findOrigins(): void {
    for (const name of this.source.inputs.keys()) {
      this.#origins.set(name, name === IDS ? { kind: 'tokens', stage: 0 } : name === POSITIONS ? { kind: 'positions' } : { kind: 'foreign', input: name });
    }
    for (const node of this.source.nodes) {
      const origin = node.op_type === 'Shape' ? sizesOf(this.origin(node.input?.[0] ?? '')) : combined(inputsOf(node).map((name) => this.origin(name)));
      for (const name of outputsOf(node)) {
        const stage = this.#after.get(name);
        this.#origins.set(name, stage === undefined ? origin : { kind: 'tokens', stage });
      }
    }
  }

  /** The nodes that the logits need once attention is replaced. */
  #needed(logits: string): Set<NodeProto> {
    const nodes = new Set<NodeProto>();
    const open = [logits];
    for (let value = open.pop(); value !== undefined; value = open.pop()) {
      const layer = this.attentionOf(value);
      const node = this.source.producer(value);
      if (layer !== undefined) {
        const { query, key, value: values } = this.sites[layer]!;
        open.push(query.value, key.value, values.value);
      } else if (node && !nodes.has(node)) {
        nodes.add(node);
        open.push(...inputsOf(node));
      }
    }
    return nodes;
  }

  /** Masks and pasts go with the attention that is replaced: nothing else may need them. */
  #refuseOtherInputs(needed: ReadonlySet<NodeProto>): void {
    for (const node of this.source.nodes) {
      const input = needed.has(node) ? inputsOf(node).find((name) => this.source.inputs.has(name) && name !== IDS && name !== POSITIONS) : undefined;
      if (input !== undefined) throw this.source.refuse(node, `needs the input "${input}"; without attention's own cache there are only ${IDS} and ${POSITIONS}`);
    }
  }

  /**
   * The one value from before the attention of `layer` that is needed after it. Where there are several, as in layers
   * whose MLP does not wait for attention, the last one that they all come from.
   */
  #carriedPast(layer: number, { node: attention }: AttentionSite, needed: ReadonlySet<NodeProto>): string {
    const before = (value: string) => {
      const origin = this.origin(value);
      return origin.kind === 'tokens' && origin.stage <= layer;
    };
    const crossing = new Set<string>();
    for (const node of needed) {
      const [first] = outputsOf(node);
      const origin = this.origin(first ?? '');
      if (origin.kind !== 'tokens' || origin.stage <= layer) continue;
      for (const input of inputsOf(node)) if (before(input)) crossing.add(input);
    }
    while (crossing.size > 1) {
      const latest = [...crossing].reduce((a, b) => (this.#place(a) > this.#place(b) ? a : b));
      const producer = this.source.producer(latest);
      if (!producer || this.attentionOf(latest) !== undefined) break;
      crossing.delete(latest);
      for (const input of this.tokenInputs(producer)) crossing.add(input);
    }
    const [value] = crossing;
    if (crossing.size !== 1 || value === IDS || this.attentionOf(value!) !== undefined) {
      throw this.source.refuse(attention, `cannot be cut out: not one value goes past it, but ${crossing.size === 0 ? 'none' : [...crossing].map((name) => `"${name}"`).join(', ')}`);
    }
    return value!;
  }

  #place(value: string): number {
    const node = this.source.producer(value);
    return node ? this.source.order(node) : -1;
  }
}

/** Sizes are known without the tokens. */
function sizesOf(origin: Origin): Origin {
  return origin.kind === 'tokens' ? { kind: 'positions' } : origin;
}

function combined(origins: readonly Origin[]): Origin {
  let result = FREE;
  for (const origin of origins) {
    if (origin.kind === 'foreign') return origin;
    if (origin.kind === 'tokens') result = { kind: 'tokens', stage: Math.max(origin.stage, result.kind === 'tokens' ? result.stage : 0) };
    else if (origin.kind === 'positions' && result.kind === 'free') result = origin;
  }
  return result;
}

