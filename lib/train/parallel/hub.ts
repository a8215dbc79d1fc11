import { createServer, type Server } from 'node:net';
import { SpkvError } from '../../errors.js';
import { difference, type Hello, type Invitation } from './invitation.js';
import { Member } from './member.js';
import { type Message, Wire } from './wire.js';

const LEFT = 'it has left before the others';
const LOOPBACK = /^(localhost|127\.[\d.]+|::1)$/;

interface Contribution {
  topic: string;
  value: unknown;
}

/** Rank 0, to which all others are connected: it collects their values, and passes on what they tell. */
export class Hub extends Member {
  readonly #wires = new Map<number, Wire>();
  readonly #left = new Set<number>();
  #round: (Contribution | undefined)[] = [];

  private constructor(size: number) {
    super(0, size);
  }

  /** Resolves when all ranks have come. Errors: RANK. */
  static async open(invitation: Invitation): Promise<Hub> {
    const { size, address, port, patience } = invitation;
    const hub = new Hub(size);
    const strangers = new Set<Wire>();
    const server = createServer();
    try {
      await new Promise<void>((resolve, reject) => {
        const missing = () => Array.from({ length: size - 1 }, (_, i) => i + 1).filter((rank) => !hub.#wires.has(rank));
        const timer = setTimeout(() => reject(absent(missing(), invitation)), patience * 1000);
        const settle = (error?: Error) => {
          clearTimeout(timer);
          if (error) reject(error);
          else resolve();
        };
        hub.onFailure(() => settle(hub.failure));
        server.on('error', (error: NodeJS.ErrnoException) => settle(unavailable(error, address, port)));
        server.on('connection', (socket) => {
          const wire = new Wire(socket, invitation.silence);
          strangers.add(wire);
          wire.listen({
            onEnd: () => strangers.delete(wire),
            onMessage: (message) => {
              if (message.kind !== 'hello') return void wire.close();
              strangers.delete(wire);
              hub.#admit(message, wire, invitation);
              if (missing().length === 0) settle();
            },
          });
        });
        // Other hosts have no way to a loopback address.
        server.listen(port, LOOPBACK.test(address) ? address : undefined);
      });
    } catch (error) {
      await hub.close();
      throw error;
    } finally {
      for (const wire of strangers) void wire.close();
      stopListening(server);
    }
    hub.broadcast({ kind: 'welcome' });
    return hub;
  }

  #admit(hello: Hello, wire: Wire, invitation: Invitation): void {
    const { rank } = hello;
    const wrong = difference(hello, invitation) ?? (this.#wires.has(rank) ? `There are two processes of rank ${rank}: two runs share the port ${invitation.port}` : undefined);
    if (wrong !== undefined) {
      wire.send({ kind: 'failure', code: 'RANK', message: wrong });
      void wire.close();
      return this.fail(new SpkvError('RANK', wrong));
    }
    this.#wires.set(rank, wire);
    wire.listen({
      onMessage: (message) => this.#hear(rank, message),
      onEnd: (reason) => this.#lose(rank, reason),
    });
  }

  #hear(rank: number, message: Message): void {
    if (message.kind === 'value') this.#collect(rank, message);
    else if (message.kind === 'bye') this.#left.add(rank);
    else if (message.kind === 'failure') {
      this.broadcast(message);
      this.end(this.failed(message));
    }
  }

  /** One that has left is missed only where others wait for it. */
  #lose(rank: number, reason: string): void {
    const left = this.#left.has(rank);
    if (left && this.#round.every((contribution) => contribution === undefined)) return;
    const message = `Rank ${rank} of ${this.size} has ended: ${left ? LEFT : reason}`;
    this.broadcast({ kind: 'failure', code: 'RANK', message });
    this.end(new SpkvError('RANK', message));
  }

  protected override contribute(topic: string, value: unknown): void {
    this.#collect(0, { topic, value });
  }

  #collect(rank: number, { topic, value }: Contribution): void {
    if (this.failure) return;
    this.#round[rank] = { topic, value };
    const gone = [...this.#left][0];
    if (gone !== undefined) return this.#lose(gone, LEFT);
    const all = Array.from({ length: this.size }, (_, i) => this.#round[i]);
    if (all.includes(undefined)) return;
    this.#round = [];
    const own = all[0]!.topic;
    const other = all.findIndex((contribution) => contribution!.topic !== own);
    if (other > 0) return this.fail(new SpkvError('RANK', `Rank ${other} is at "${all[other]!.topic}" and rank 0 at "${own}"`));
    const values = all.map((contribution) => contribution!.value);
    this.broadcast({ kind: 'values', topic: own, values });
    this.answer(own, values);
  }

  protected override broadcast(message: Message): void {
    for (const wire of this.#wires.values()) wire.send(message);
  }

  override async close(): Promise<void> {
    this.broadcast({ kind: 'bye' });
    await Promise.all([...this.#wires.values()].map((wire) => wire.close()));
  }
}

function stopListening(server: Server): void {
  server.removeAllListeners('error').on('error', () => {}).close();
}

function absent(missing: readonly number[], { size, address, port, patience }: Invitation): SpkvError {
  const names = `${missing.length === 1 ? 'rank' : 'ranks'} ${missing.slice(0, 16).join(', ')}${missing.length > 16 ? ', ...' : ''}`;
  return new SpkvError('RANK', `Expected ${size} ranks within ${patience} s but ${names} did not come: are they running, and can they reach ${address}:${port}?`);
}

function unavailable(error: NodeJS.ErrnoException, address: string, port: number): SpkvError {
  const taken = error.code === 'EADDRINUSE' ? ': another program, or another run, listens there; set MASTER_PORT to another one' : '';
  return new SpkvError('RANK', `Rank 0 could not listen on port ${port} of ${address} (${error.code ?? error.message})${taken}`, { cause: error });
}
