import type { Socket } from 'node:net';

/** Longest message: what a rank exchanges is small. */
const MAX_BYTES = 1 << 28;
/** Signs of life in the time after which there is none. */
const BEATS = 6;

/** What travels between rank 0 and another rank: one JSON object a line. */
export type Message =
  | { kind: 'hello'; version: string; run: string; rank: number; size: number }
  | { kind: 'welcome' }
  | { kind: 'value'; topic: string; value: unknown }
  | { kind: 'values'; topic: string; values: unknown[] }
  | { kind: 'failure'; code: string; message: string }
  | { kind: 'beat' }
  | { kind: 'bye' };

export interface WireEvents {
  onMessage(message: Message): void;
  /** The connection has ended, for this reason. Told once. */
  onEnd(reason: string): void;
}

/** A connection that says now and then that it is alive, and ends when the other side does not. */
export class Wire {
  readonly #beat: NodeJS.Timeout;
  #events: WireEvents | undefined;
  #parts: string[] = [];
  #length = 0;
  /** Beats since something was heard. */
  #quiet = 0;

  constructor(private readonly socket: Socket, silence: number) {
    socket.setNoDelay(true);
    socket.setEncoding('utf8');
    // Counted in beats of this process, so that the other side is not blamed for a pause of this one.
    this.#beat = setInterval(() => {
      if (++this.#quiet > BEATS) return this.#end(`there was no sign of life for ${silence} s`);
      this.send({ kind: 'beat' });
    }, (silence * 1000) / BEATS);
    socket.on('data', (text) => this.#read(String(text)));
    socket.on('error', (error: NodeJS.ErrnoException) => this.#end(error.code ?? error.message));
    socket.on('close', () => this.#end('the connection was closed'));
  }

  listen(events: WireEvents): void {
    this.#events = events;
  }

  send(message: Message): void {
    if (this.socket.writable) this.socket.write(`${JSON.stringify(message)}\n`);
  }

  /** Sends what is left and closes. */
  async close(): Promise<void> {
    this.#events = undefined;
    clearInterval(this.#beat);
    if (this.socket.destroyed) return;
    await new Promise<void>((done) => this.socket.once('close', () => done()).end(() => this.socket.destroy()));
  }

  #read(text: string): void {
    this.#quiet = 0;
    const lines = text.split('\n');
    while (lines.length > 1) {
      this.#parts.push(lines.shift()!);
      const line = this.#parts.join('');
      this.#parts = [];
      this.#length = 0;
      this.#take(line);
    }
    this.#parts.push(lines[0]!);
    this.#length += lines[0]!.length;
    if (this.#length > MAX_BYTES) this.#end('a message is too long');
  }

  #take(line: string): void {
    let message: Message | undefined;
    try {
      message = JSON.parse(line) as Message;
    } catch {}
    if (typeof message?.kind !== 'string') return this.#end('it does not speak as spkv does');
    if (message.kind !== 'beat') this.#events?.onMessage(message);
  }

  #end(reason: string): void {
    clearInterval(this.#beat);
    const events = this.#events;
    this.#events = undefined;
    this.socket.destroy();
    events?.onEnd(reason);
  }
}
