import type { Choice } from './choice.js';

/** So long a wait counts as much as one step of priority: nothing waits for ever. */
const PATIENCE_MS = 10_000;

/**
 * Texts that wait for a place. First come those of the highest priority; among them those that were begun and had to
 * make room, oldest first; then the clients in turn: the one that has been given the fewest tokens, and of its requests
 * the oldest.
 */
export class Queue {
  readonly #waiting = new Set<Choice>();
  /** Tokens given to each client that is waiting or ahead of the others. */
  readonly #given = new Map<string, number>();
  /** What had been given to the client that was served last: where a client that comes anew begins. */
  #level = 0;

  get size(): number {
    return this.#waiting.size;
  }

  [Symbol.iterator](): IterableIterator<Choice> {
    return this.#waiting.values();
  }

  add(choice: Choice): void {
    this.#waiting.add(choice);
    const { client } = choice.request.options;
    this.#given.set(client, Math.max(this.#given.get(client) ?? 0, this.#level));
  }

  /** The one that is next, of those that are able to go on; at a time in milliseconds of performance.now(). */
  first(now: number, able: (choice: Choice) => boolean = () => true): Choice | undefined {
    let first: Choice | undefined;
    for (const choice of this.#waiting) if (able(choice) && (!first || this.#precedes(choice, first, now))) first = choice;
    return first;
  }

  /** Takes one out that gets its place. */
  take(choice: Choice): void {
    this.#waiting.delete(choice);
    const { client, ids, n, maxTokens } = choice.request.options;
    if (begun(choice)) return;
    const given = this.#given.get(client) ?? this.#level;
    this.#level = Math.max(this.#level, given);
    this.#given.set(client, given + ids.length + n * maxTokens);
    this.#forget();
  }

  /** Takes one out that has ended. */
  remove(choice: Choice): void {
    this.#waiting.delete(choice);
  }

  #precedes(a: Choice, b: Choice, now: number): boolean {
    const [x, y] = [a.request, b.request];
    const rank = ({ options, arrival }: typeof x) => options.priority + Math.floor((now - arrival) / PATIENCE_MS);
    if (rank(x) !== rank(y)) return rank(x) > rank(y);
    if (begun(a) !== begun(b)) return begun(a);
    const given = ({ options }: typeof x) => this.#given.get(options.client) ?? 0;
    if (!begun(a) && given(x) !== given(y)) return given(x) < given(y);
    return x.number !== y.number ? x.number < y.number : a.index < b.index;
  }

  /** Clients that neither wait nor are ahead begin anew when they come back: nothing need be known of them. */
  #forget(): void {
    if (this.#given.size < 1000) return;
    const waiting = new Set(Array.from(this.#waiting, ({ request }) => request.options.client));
    for (const [client, given] of this.#given) if (given <= this.#level && !waiting.has(client)) this.#given.delete(client);
  }
}

function begun(choice: Choice): boolean {
  return choice.request.begun;
}
