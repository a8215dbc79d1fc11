/** What a first and a second Ctrl-C do while something runs. */
export interface Interrupt extends Disposable {
  /** True after the first Ctrl-C. */
  readonly requested: boolean;
  /** Aborted by the first Ctrl-C unless {@link handOver} has been called. */
  readonly signal: AbortSignal;
  /** From now on the caller looks at `requested` itself, between two pieces of text. */
  handOver(): void;
}

export class Interrupted extends Error {}

/** Listens for Ctrl-C (SIGINT), or for the signals named, until disposed. A second one ends the process at once. */
export function onInterrupt(signals: readonly NodeJS.Signals[] = ['SIGINT']): Interrupt {
  const controller = new AbortController();
  let requested = false;
  let handedOver = false;
  const listener = () => {
    if (requested) process.exit(130);
    requested = true;
    if (!handedOver) controller.abort(new Interrupted('interrupted'));
  };
  for (const signal of signals) process.on(signal, listener);
  return {
    get requested() {
      return requested;
    },
    signal: controller.signal,
    handOver() {
      handedOver = true;
    },
    [Symbol.dispose]() {
      for (const signal of signals) process.off(signal, listener);
    },
  };
}
