import cliProgress from 'cli-progress';

/** Shown only when something takes longer than this. */
const DELAY_MS = 150;

/** One bar on stderr, for one stretch of work after the other. Silent where `enabled` is false or stderr is no terminal. */
export class Progress implements Disposable {
  readonly #enabled: boolean;
  #bar: cliProgress.SingleBar | undefined;
  #label = '';
  #started = 0;

  constructor(enabled: boolean) {
    this.#enabled = enabled && process.stderr.isTTY === true;
  }

  /** The work called `label` has done `done` of `total`; the bar goes when it is complete. */
  update(label: string, done: number, total: number): void {
    if (!this.#enabled) return;
    if (label !== this.#label) {
      this.stop();
      this.#label = label;
      this.#started = performance.now();
    }
    if (done >= total) {
      this.stop();
    } else if (this.#bar) {
      this.#bar.update(done);
    } else if (performance.now() - this.#started >= DELAY_MS) {
      this.#bar = new cliProgress.SingleBar(
        { format: `${label} {bar} {percentage} %`, stream: process.stderr, clearOnComplete: true, hideCursor: true, barsize: 30, fps: 20 },
        cliProgress.Presets.shades_classic,
      );
      this.#bar.start(total, done);
    }
  }

  /** Takes the bar off the screen. */
  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
    this.#label = '';
  }

  [Symbol.dispose](): void {
    this.stop();
  }
}
