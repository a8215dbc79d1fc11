import { invalid } from '../check.js';

/**
 * Ends a stream of text at the first place where one of several strings occurs. Text is let through as soon
 * as it cannot be part of a stop string any more, so at most the longest stop string less one character is
 * held back. Where the pieces are cut makes no difference to the outcome.
 */
export class StopStrings {
  readonly #stops: readonly string[];
  readonly #longest: number;
  #held = '';
  #matched: string | undefined;

  constructor(stops: readonly string[]) {
    if (!Array.isArray(stops)) throw invalid('an array of strings', 'stops', stops);
    for (const stop of stops) if (typeof stop !== 'string' || stop === '') throw invalid('a non-empty string', 'a stop string', stop);
    // Of two stop strings that start at one place the shorter one is complete first.
    this.#stops = [...stops].sort((a, b) => a.length - b.length);
    this.#longest = this.#stops.at(-1)?.length ?? 0;
  }

  /** Whether a stop string has occurred; from then on nothing is let through. */
  get stopped(): boolean {
    return this.#matched !== undefined;
  }

  /** The stop string that occurred. */
  get matched(): string | undefined {
    return this.#matched;
  }

  /** Takes the next piece and returns the text that is certain to precede every stop string. */
  push(piece: string): string {
    if (this.stopped) return '';
    const text = this.#held + piece;
    const match = this.#find(text);
    const pending = this.#pending(text);
    // A stop string that began before the match and may still become complete would be the earlier one.
    if (match && match.at <= pending) return this.#stop(text, match);
    this.#held = text.slice(pending);
    return text.slice(0, pending);
  }

  /** The text held back when no more will come. */
  flush(): string {
    const text = this.#held;
    this.#held = '';
    const match = this.#find(text);
    return match ? this.#stop(text, match) : text;
  }

  #stop(text: string, match: { at: number; stop: string }): string {
    this.#matched = match.stop;
    this.#held = '';
    return text.slice(0, match.at);
  }

  /** The stop string that starts first in `text`. */
  #find(text: string): { at: number; stop: string } | undefined {
    let first: { at: number; stop: string } | undefined;
    for (const stop of this.#stops) {
      const at = text.indexOf(stop);
      if (at >= 0 && (!first || at < first.at)) first = { at, stop };
    }
    return first;
  }

  /** Where the longest end of `text` starts that begins a stop string; the length of `text` if there is none. */
  #pending(text: string): number {
    for (let at = Math.max(0, text.length - this.#longest + 1); at < text.length; at++) {
      const end = text.slice(at);
      if (this.#stops.some((stop) => stop.startsWith(end))) return at;
    }
    return text.length;
  }
}
