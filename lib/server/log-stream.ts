import { write } from 'node:fs';

/** Lines that wait for a reader of the log; more are left out. */
const MOST_LINES = 2_000;
const RETRY_MS = 20;

/**
 * Writes the log without ever waiting for whoever reads it: a pipe that is full holds up no answer. Lines that find no
 * room are left out, and counted in a line of their own once there is room again.
 */
export class LogStream {
  readonly #fd: number;
  #waiting: string[] = [];
  #left = 0;
  #writing = false;

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
      if (error?.code === 'EAGAIN') setTimeout(() => this.#send(bytes), RETRY_MS);
      else if (!error && written < bytes.length) this.#send(bytes.subarray(written));
      else {
        // Where the reader has gone, the log has too.
        this.#writing = false;
        this.#next();
      }
    });
  }
}
