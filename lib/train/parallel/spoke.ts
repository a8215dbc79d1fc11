import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { SpkvError } from '../../errors.js';
import { helloOf, type Invitation } from './invitation.js';
import { Member } from './member.js';
import { type Message, Wire } from './wire.js';

const RETRY_MS = 200;

/** Every rank but 0: all it hears comes by way of rank 0. */
export class Spoke extends Member {
  readonly #wire: Wire;
  #welcome: (() => void) | undefined;
  #left = false;

  private constructor(rank: number, size: number, wire: Wire) {
    super(rank, size);
    this.#wire = wire;
    wire.listen({ onMessage: (message) => this.#hear(message), onEnd: (reason) => this.#lose(reason) });
  }

  /** Resolves when all ranks have come. Errors: RANK. */
  static async open(invitation: Invitation): Promise<Spoke> {
    const { rank, size, address, port, patience } = invitation;
    const until = performance.now() + patience * 1000;
    const spoke = new Spoke(rank, size, await reach(invitation, until));
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        spoke.#welcome = resolve;
        spoke.onFailure(() => reject(spoke.failure!));
        const late = () => reject(new SpkvError('RANK', `Rank 0 at ${address}:${port} did not say within ${patience} s that all ${size} ranks have come`));
        timer = setTimeout(late, until - performance.now() + RETRY_MS);
        spoke.broadcast(helloOf(invitation));
      });
    } catch (error) {
      await spoke.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
    return spoke;
  }

  #hear(message: Message): void {
    if (message.kind === 'welcome') this.#welcome?.();
    else if (message.kind === 'values') this.answer(message.topic, message.values);
    else if (message.kind === 'failure') this.end(this.failed(message));
    else if (message.kind === 'bye') this.#leave();
  }

  /** Nothing to worry about, unless something is still awaited from it. */
  #leave(): void {
    this.#left = true;
    if (this.waits) this.contribute('', null);
  }

  #lose(reason: string): void {
    if (!this.#left) this.end(new SpkvError('RANK', `Rank 0 of ${this.size} has ended: ${reason}`));
  }

  protected override contribute(topic: string, value: unknown): void {
    if (this.#left) return this.end(new SpkvError('RANK', `Rank 0 of ${this.size} has ended: it has left before the others`));
    this.broadcast({ kind: 'value', topic, value });
  }

  protected override broadcast(message: Message): void {
    this.#wire.send(message);
  }

  override async close(): Promise<void> {
    this.broadcast({ kind: 'bye' });
    await this.#wire.close();
  }
}

/** Tries until rank 0 listens. */
async function reach({ address, port, silence, patience }: Invitation, until: number): Promise<Wire> {
  for (;;) {
    const socket = connect({ host: address, port });
    const error = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
      socket.once('connect', () => resolve(undefined)).once('error', resolve);
      socket.setTimeout(Math.max(1, until - performance.now()), () => socket.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })));
    });
    if (!error) {
      for (const event of ['connect', 'error', 'timeout']) socket.removeAllListeners(event);
      socket.setTimeout(0);
      return new Wire(socket, silence);
    }
    if (performance.now() + RETRY_MS > until) {
      throw new SpkvError('RANK', `Rank 0 could not be reached at ${address}:${port} within ${patience} s (${error.code ?? error.message}): is it running, and are MASTER_ADDR and MASTER_PORT right?`, { cause: error });
    }
    await delay(RETRY_MS);
  }
}
