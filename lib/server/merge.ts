import type { TextEvent } from '../engine/events.js';

/**
 * The events of several requests of `n` texts each, as they come; `index` counts the texts of all. No more than one
 * event of a request is taken ahead, so that a slow reader pauses them all.
 */
export async function* merge(requests: readonly AsyncIterable<TextEvent>[], n: number): AsyncGenerator<TextEvent, void, void> {
  type Outcome = { result: IteratorResult<TextEvent, unknown> } | { error: unknown };
  const ready: { request: number; outcome: Outcome }[] = [];
  let wake: (() => void) | undefined;
  const iterators = requests.map((request) => request[Symbol.asyncIterator]());
  const take = (request: number) => {
    const put = (outcome: Outcome) => {
      ready.push({ request, outcome });
      wake?.();
    };
    iterators[request]!.next().then((result) => put({ result }), (error: unknown) => put({ error }));
  };
  try {
    for (const request of iterators.keys()) take(request);
    for (let open = iterators.length; open > 0; ) {
      if (ready.length === 0) await new Promise<void>((resolve) => (wake = resolve));
      const { request, outcome } = ready.shift()!;
      if ('error' in outcome) throw outcome.error;
      if (outcome.result.done) {
        open--;
        continue;
      }
      const event = outcome.result.value;
      yield { ...event, index: request * n + event.index };
      take(request);
    }
  } finally {
    for (const iterator of iterators) void iterator.return?.();
  }
}
