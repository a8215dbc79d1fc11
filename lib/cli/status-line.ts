/** Least time between two updates, and where stderr is no terminal, between two lines. */
const INTERVAL_MS = { terminal: 100, file: 10_000 };

/** One line on stderr that is written over and over; where stderr is no terminal, a line now and then. */
export class StatusLine implements Disposable {
  readonly #terminal = process.stderr.isTTY === true;
  #last = -Infinity;
  #shown = false;

  constructor(private readonly enabled: boolean) {}

  update(text: string): void {
    const now = performance.now();
    if (!this.enabled || now - this.#last < (this.#terminal ? INTERVAL_MS.terminal : INTERVAL_MS.file)) return;
    this.#last = now;
    if (!this.#terminal) return void process.stderr.write(`${text}\n`);
    const { columns = 80 } = process.stderr;
    process.stderr.write(`\r${text.slice(0, columns - 1)}\u001B[K`);
    this.#shown = true;
  }

  /** A line that stays. */
  say(text: string): void {
    if (!this.enabled) return;
    this.clear();
    process.stderr.write(`${text}\n`);
  }

  clear(): void {
    if (this.#shown) process.stderr.write('\r\u001B[K');
    this.#shown = false;
  }

  [Symbol.dispose](): void {
    this.clear();
  }
}
