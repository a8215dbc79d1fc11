// What happens around every request: ids, keys, logs, and the form of errors.
import { randomUUID } from 'node:crypto';
import { type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, LogController } from 'fastify';
import type { Usage } from './answer.js';
import { ApiError, apiError } from './api-error.js';
import { Keys } from './keys.js';
import type { LogStream } from './log-stream.js';
import type { Metrics } from './metrics.js';
import type { ResolvedServerOptions } from './options.js';
import { misfit } from './schema.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** On whose behalf it is. */
    client: string;
    /** What it has cost. */
    usage: Usage | undefined;
  }
  interface FastifyContextConfig {
    /** Needs no key, and is answered while the server closes. */
    open?: boolean;
    /** Is asked for so often that its lines are for debugging only. */
    frequent?: boolean;
  }
}

const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/i;
const CHECK_MS = 5_000;

/** What is asked on the way. */
export interface HttpState {
  closing(): boolean;
  /** Whether only this machine reaches the server. */
  local(): boolean;
  /** Seconds after which one who was refused may come again. */
  retryAfter(): number;
}

export function createApp(options: ResolvedServerOptions, metrics: Metrics, log: LogStream, state: HttpState): FastifyInstance {
  const { apiKeys, maxBodyBytes, receiveTimeout, answerTimeout, logLevel } = options;
  const keys = new Keys(apiKeys);
  const fail = (error: unknown, request: FastifyRequest, reply: FastifyReply) => {
    const answer = apiError(error);
    if (answer.status >= 500) request.log.error({ err: answer.cause ?? answer }, 'a request has failed');
    if (answer.status === 429 || answer.status === 503) reply.header('retry-after', state.retryAfter());
    return reply.code(answer.status).send(answer.body);
  };
  const app = Fastify({
    logger: logLevel === 'silent' ? false : { level: logLevel, stream: log },
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'request' }),
    genReqId: requestId,
    bodyLimit: maxBodyBytes,
    requestTimeout: receiveTimeout,
    // Longer than anybody waits for an answer: who takes nothing of it for so long has gone.
    connectionTimeout: answerTimeout > 0 ? answerTimeout + receiveTimeout : 0,
    http: { headersTimeout: receiveTimeout, connectionsCheckingInterval: Math.min(CHECK_MS, Math.ceil(receiveTimeout / 2)) },
    forceCloseConnections: 'idle',
    return503OnClosing: false,
    clientErrorHandler: clientError,
    frameworkErrors: (error, request, reply) => void fail(error, request as FastifyRequest, reply as unknown as FastifyReply),
    schemaErrorFormatter: misfit,
    // A request is taken as it is or refused: nothing is converted, left out or filled in.
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, strict: false, verbose: true } },
  });
  app.removeContentTypeParser('text/plain');
  app.decorateRequest('client', '');
  app.decorateRequest('usage', undefined);
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id);
    const { method, url, ip } = request;
    // The hook onResponse is not called for clients that have left.
    reply.raw.once('close', () => {
      const status = reply.raw.writableFinished ? reply.statusCode : 499;
      metrics.answered(request.routeOptions.url ?? 'unknown', status);
      const milliseconds = Math.round(reply.elapsedTime);
      request.log[request.routeOptions.config.frequent ? 'debug' : 'info']({ method, url, status, milliseconds, ip, ...(request.usage && { usage: request.usage }) }, 'answered');
    });
    // A page of another site may make a browser believe that its name is this machine's.
    if (apiKeys.length === 0 && state.local() && !LOOPBACK.test(request.host)) {
      throw new ApiError(403, 'Without an API key, a server for this machine alone answers to localhost only', { code: 'host_not_allowed' });
    }
    if (request.routeOptions.config.open) return;
    request.client = keys.client(request);
    if (!state.closing()) return;
    reply.header('connection', 'close');
    throw new ApiError(503, 'The server is closing', { code: 'shutting_down' });
  });
  // What is answered is documented, and sent as it is.
  app.setSerializerCompiler(() => JSON.stringify);
  app.setErrorHandler(fail);
  app.setNotFoundHandler(({ method, url }) => {
    throw new ApiError(404, `There is nothing at ${method} ${url.split('?')[0]}; /openapi.json lists what there is`, { code: 'unknown_url' });
  });
  return app;
}

/** The client's own where it is harmless in logs. */
function requestId({ headers }: { headers: IncomingMessage['headers'] }): string {
  const given = headers['x-request-id'];
  return typeof given === 'string' && /^[\w.-]{1,64}$/.test(given) ? given : randomUUID();
}

/** Answers what is not HTTP, or has not come in whole in time. */
function clientError(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const known: Record<string, [number, string]> = {
    ERR_HTTP_REQUEST_TIMEOUT: [408, 'The request did not come in whole in time'],
    HPE_HEADER_OVERFLOW: [431, 'The headers of the request are too large'],
  };
  const [status, message] = known[error.code ?? ''] ?? [400, 'This is not a request in HTTP'];
  const text = JSON.stringify(new ApiError(status, message).body);
  const head = [`HTTP/1.1 ${status} ${STATUS_CODES[status]}`, 'Content-Type: application/json', `Content-Length: ${Buffer.byteLength(text)}`, 'Connection: close'];
  socket.end(`${head.join('\r\n')}\r\n\r\n${text}`);
}
