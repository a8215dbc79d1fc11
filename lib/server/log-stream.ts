import { write } from 'node:fs';

/** Lines that wait for a reader of the log; more are left out. */
const MOST_LINES = 1_000;
const RETRY_MS = 20;
/** How long the reader has for what is left at the end. */
const GRACE_MS = 1_000;

/**
 * Writes the log without ever waiting for whoever reads it: a pipe that is full holds up no answer. Lines that find no
 * room are left out, and counted in a line of their own once there is room again.
 */
export class LogStream {
  readonly #fd: number;
  #waiting: string[] = [];
  #left = 0;
  #writing = false;
  #end = Infinity;

  constructor(fd = 1) {
    this.#fd = fd;
  }

  /** Takes a line, with its end. */
  write(line: string): void {
    if (this.#waiting.length >= MOST_LINES) {
      this.#left++;
      return;
    }
    this.#waiting.push(line);
    if (!this.#writing) this.#next();
  }

  /** No more will come: the process may end, if need be without the last lines. */
  close(): void {
    this.#end = performance.now() + GRACE_MS;
  }

  #next(): void {
    if (this.#waiting.length === 0) return;
    const lines = this.#waiting;
    this.#waiting = this.#left === 0 ? [] : [`${JSON.stringify({ level: 40, time: Date.now(), msg: `${this.#left} lines were left out: nobody read the log` })}\n`];
    this.#left = 0;
    this.#send(Buffer.from(lines.join('')));
  }

  #send(bytes: Buffer): void {
    this.#writing = true;
    write(this.#fd, bytes, (error, written) => {
      if (error?.code === 'EAGAIN' && performance.now() < this.#end) setTimeout(() => this.#send(bytes), RETRY_MS);
      else if (!error && written < bytes.length) this.#send(bytes.subarray(written));
      else {
        this.#writing = false;
        if (error) this.#waiting = []; // the reader has gone
        else this.#next();
      }
    });
  }
}
