// spkv/server: an OpenAI-compatible server. It needs the packages fastify, @fastify/swagger and prom-client.
import { createHash } from 'node:crypto';
import { isIP } from 'node:net';
import swagger from '@fastify/swagger';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { integer, string } from '../check.js';
import { Engine } from '../engine/engine.js';
import type { TextModel } from '../text-model.js';
import { packageVersion } from '../version.js';
import { chatRoutes } from './chat.js';
import { completionRoutes } from './completions.js';
import { Encoder } from './encoder.js';
import { createApp } from './http.js';
import { infoRoutes, tokenRoutes } from './info.js';
import { Limits } from './limits.js';
import { LogStream } from './log-stream.js';
import { Metrics } from './metrics.js';
import { type ResolvedServerOptions, resolveServerOptions, type ServerOptions } from './options.js';
import { pageRoutes } from './page.js';
import { TokenTexts } from './token-text.js';

export type { ServerOptions } from './options.js';

/** Time for answers that have been broken off to reach their readers. */
const GRACE_MS = 1_000;

/**
 * Serves a model in the way of OpenAI's API. The server makes an engine of its own; the model stays the caller's.
 *
 *   const server = await createServer(model, { apiKeys: ['secret'] });
 *   console.log(await server.listen({ port: 8000 }));
 *
 * Errors: INVALID_ARGUMENT, OUT_OF_MEMORY.
 */
export async function createServer(model: TextModel, opts?: ServerOptions): Promise<Server> {
  const options = resolveServerOptions(model, opts);
  const server = new Server(model, options);
  await server.open();
  return server;
}

/** An HTTP server in front of an engine, from {@link createServer}. */
export class Server implements AsyncDisposable {
  readonly engine: Engine;
  /** The fastify application, for routes and hooks of one's own before it listens. */
  readonly app: FastifyInstance;
  readonly #options: ResolvedServerOptions;
  readonly #metrics = new Metrics();
  readonly #log = new LogStream();
  readonly #encoder: Encoder;
  readonly #model: TextModel;
  /** Requests that have come in whole and have not been answered. */
  readonly #answering = new Set<FastifyRequest>();
  #answered: (() => void) | undefined;
  #grace: ReturnType<typeof setTimeout> | undefined;
  #local = false;
  #closing = false;
  #closed: Promise<void> | undefined;

  /** @internal Use {@link createServer}. */
  constructor(model: TextModel, options: ResolvedServerOptions) {
    this.#model = model;
    this.#options = options;
    this.#encoder = new Encoder(model);
    this.engine = new Engine(model, { ...options.engine, onStep: this.#metrics.onStep, onRequest: this.#metrics.onRequest });
    this.#metrics.watch(this.engine);
    this.app = createApp(options, this.#metrics, this.#log, {
      closing: () => this.#closing,
      local: () => this.#local,
      retryAfter: () => this.#metrics.retryAfter(this.engine.stats()),
    });
  }

  /** Whether other machines reach it, and it asks for no key. */
  get exposed(): boolean {
    return this.app.server.listening && !this.#local && this.#options.apiKeys.length === 0;
  }

  /** What requests call the model. */
  get name(): string {
    return this.#options.name;
  }

  /** @internal */
  async open(): Promise<void> {
    const { app } = this;
    await app.register(swagger, {
      openapi: {
        openapi: '3.1.0',
        info: { title: 'spkv', version: packageVersion(), description: 'A language model in the way of OpenAI\'s API. Fields that are not listed are refused.' },
        components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
        ...(this.#options.apiKeys.length > 0 && { security: [{ key: [] }] }),
      },
    });
    app.addHook('preValidation', async (request, reply) => {
      this.#answering.add(request);
      reply.raw.once('close', () => {
        this.#answering.delete(request);
        if (this.#answering.size === 0) this.#answered?.();
      });
    });
    const service = {
      model: this.#model,
      engine: this.engine,
      encoder: this.#encoder,
      limits: new Limits(this.#model, this.#options),
      tokenTexts: new TokenTexts(this.#model),
      options: this.#options,
      fingerprint: fingerprint(this.#model),
      created: Math.floor(Date.now() / 1000),
    };
    completionRoutes(app, service);
    chatRoutes(app, service);
    infoRoutes(app, service, this.#metrics, () => !this.#closing);
    tokenRoutes(app, service);
    pageRoutes(app);
    app.get('/openapi.json', { config: { open: true }, schema: { hide: true } }, async () => app.swagger());
  }

  /** Begins to take requests; resolves with the address. Port 0 takes one that is free. */
  async listen({ host = '127.0.0.1', port = 8000 }: { host?: string; port?: number } = {}): Promise<string> {
    string(host, 'host');
    this.#local = host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
    return this.app.listen({ host, port: integer(port, 'port', 0, 65_535) });
  }

  /**
   * Takes no more requests, and resolves when those that are there have been answered and all memory is free again;
   * after `drainTimeout` they are broken off. With `abort`, at once.
   */
  close({ abort = false }: { abort?: boolean } = {}): Promise<void> {
    this.#closing = true;
    if (abort) this.#breakOff();
    this.#closed ??= this.#drain();
    return this.#closed;
  }

  async #drain(): Promise<void> {
    const timer = setTimeout(() => this.#breakOff(), this.#options.drainTimeout);
    try {
      await this.engine.close();
      const closed = this.app.close();
      if (this.#answering.size > 0) await new Promise<void>((resolve) => (this.#answered = resolve));
      // Connections that clients keep for later requests, and requests that will not come in whole.
      setImmediate(() => this.app.server.closeAllConnections());
      await closed;
    } finally {
      clearTimeout(timer);
      clearTimeout(this.#grace);
      this.#metrics.close();
      this.#log.close();
      await this.#encoder[Symbol.asyncDispose]();
    }
  }

  #breakOff(): void {
    void this.engine.close({ abort: true });
    this.#grace ??= setTimeout(() => this.app.server.closeAllConnections(), GRACE_MS);
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close({ abort: true });
  }
}

function fingerprint({ checkpoint, cache, device }: TextModel): string {
  const parts = [packageVersion(), checkpoint.dir, checkpoint.bytes, cache.dtype, device.description];
  return `spkv-${createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 12)}`;
}
