/** A node stands for the tokens from the root to it. Edges have at least one token; siblings differ in their first. */
export interface Node<T> {
  edge: readonly number[];
  length: number;
  value: T | undefined;
  parent: Node<T> | undefined;
  children: Map<number, Node<T>>;
}

/** Values by lists of tokens: finds those of all beginnings of a list. A radix tree. */
export class PrefixTree<T> {
  readonly #root: Node<T> = { edge: [], length: 0, value: undefined, parent: undefined, children: new Map() };

  /** The values of the beginnings of `ids`, shortest first. */
  *along(ids: readonly number[]): Generator<T, void, void> {
    let node = this.#root;
    for (;;) {
      if (node.value !== undefined) yield node.value;
      const child = node.children.get(ids[node.length] as number);
      if (!child || common(child.edge, ids, node.length) < child.edge.length) return;
      node = child;
    }
  }

  /** The node of the first `length` of `ids`, to be given a value. */
  at(ids: readonly number[], length: number): Node<T> {
    let node = this.#root;
    while (node.length < length) {
      const child = node.children.get(ids[node.length]!);
      if (!child) {
        node = this.#attach(node, ids.slice(node.length, length));
        break;
      }
      const shared = Math.min(common(child.edge, ids, node.length), length - node.length);
      node = shared === child.edge.length ? child : this.#split(child, shared);
    }
    return node;
  }

  /** The values below a node, up to the first on each way. */
  *next(node: Node<T>): Generator<T, void, void> {
    for (const child of node.children.values()) {
      if (child.value !== undefined) yield child.value;
      else yield* this.next(child);
    }
  }

  /** Removes the value of a node. */
  delete(node: Node<T>): void {
    node.value = undefined;
    // A node that says nothing and parts nothing goes.
    for (let { parent } = node; parent && node.value === undefined && node.children.size < 2; { parent } = node) {
      const [child] = node.children.values();
      if (child) {
        child.edge = [...node.edge, ...child.edge];
        child.parent = parent;
        parent.children.set(child.edge[0]!, child);
        return;
      }
      parent.children.delete(node.edge[0]!);
      node = parent;
    }
  }

  get empty(): boolean {
    return this.#root.children.size === 0 && this.#root.value === undefined;
  }

  #attach(parent: Node<T>, edge: readonly number[]): Node<T> {
    const node: Node<T> = { edge, length: parent.length + edge.length, value: undefined, parent, children: new Map() };
    parent.children.set(edge[0]!, node);
    return node;
  }

  /** A node in the middle of the edge to `child`. */
  #split(child: Node<T>, at: number): Node<T> {
    const middle = this.#attach(child.parent!, child.edge.slice(0, at));
    child.edge = child.edge.slice(at);
    child.parent = middle;
    middle.children.set(child.edge[0]!, child);
    return middle;
  }
}

/** How many of `edge` are what `ids` has from `start` on. */
function common(edge: readonly number[], ids: readonly number[], start: number): number {
  let count = 0;
  while (count < edge.length && edge[count] === ids[start + count]) count++;
  return count;
}
