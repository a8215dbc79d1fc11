import type { FastifyInstance } from 'fastify';
import { ApiError } from './api-error.js';
import { MODEL } from './fields.js';
import type { Metrics } from './metrics.js';
import { DETOKENIZE_ANSWERS, MODEL_ANSWERS, MODELS_ANSWERS, STATS_ANSWERS, STATUS_ANSWERS, textAnswer, TOKENIZE_ANSWERS } from './responses.js';
import { body, optional } from './schema.js';
import { checkModel, type Service } from './service.js';

/** What the server tells of itself, and the tokens of texts. */
export function infoRoutes(app: FastifyInstance, service: Service, metrics: Metrics, ready: () => boolean): void {
  const { options, model, limits, created } = service;
  const card = {
    id: options.name,
    object: 'model',
    created,
    owned_by: 'spkv',
    // Extensions.
    max_model_len: limits.contextLength,
    threshold: model.threshold,
    window: model.cache.window,
    layers: model.cache.layers,
    kv_heads: model.cache.kvHeads,
    dense: model.dense,
    chat: model.chatTemplate !== undefined,
  };
  app.get('/v1/models', { schema: { summary: 'Lists the model', response: MODELS_ANSWERS, tags: ['OpenAI'] } }, async () => ({ object: 'list', data: [card] }));
  app.get<{ Params: { model: string } }>('/v1/models/:model', { schema: { summary: 'Describes the model', response: MODEL_ANSWERS, tags: ['OpenAI'] } }, ({ params }, reply) => {
    checkModel(service, params.model);
    void reply.send(card);
  });
  app.post('/v1/embeddings', { schema: { hide: true } }, async () => {
    throw new ApiError(404, 'This server makes no embeddings: its models are made to write', { code: 'unsupported' });
  });

  const unguarded = { config: { open: true } };
  app.get('/health', { ...unguarded, schema: { summary: '200 as long as the process answers', response: STATUS_ANSWERS, tags: ['operation'] } }, async () => ({ status: 'ok' }));
  app.get('/ready', { ...unguarded, schema: { summary: '200 while requests are taken, 503 when the server is closing', response: { ...STATUS_ANSWERS, 503: STATUS_ANSWERS[200] }, tags: ['operation'] } }, async (_, reply) => {
    if (ready()) return { status: 'ready' };
    return reply.code(503).send({ status: 'closing' });
  });
  app.get('/metrics', { schema: { summary: 'Metrics for Prometheus', response: textAnswer('Metrics'), tags: ['operation'] } }, async (_, reply) => {
    reply.type(metrics.registry.contentType);
    return metrics.registry.metrics();
  });
  app.get('/stats', { config: { frequent: true }, schema: { summary: 'The server at this moment, as the page shows it', response: STATS_ANSWERS, tags: ['operation'] } }, async () => {
    const { requests, texts, tokens, pool, density, preemptions, prefixes } = service.engine.stats();
    const { usedPages: used_pages, capacityPages: capacity_pages, pageBytes: page_bytes } = pool;
    return { requests, texts, tokens, pool: { used_pages, capacity_pages, page_bytes }, density, preemptions, prefixes };
  });
}

interface TokenizeFields {
  model?: string | null;
  text: string;
  add_special_tokens?: boolean | null;
}

interface DetokenizeFields {
  model?: string | null;
  tokens: number[];
}

/** The body of POST /tokenize. */
export const TOKENIZE_BODY = body(
  {
    model: optional(MODEL),
    text: { type: 'string' },
    add_special_tokens: optional({ type: 'boolean', description: 'Those that a prompt begins with. Defaults to true.' }),
  },
  ['text'],
);

/** The body of POST /detokenize. */
export const DETOKENIZE_BODY = body({ model: optional(MODEL), tokens: { type: 'array', items: { type: 'integer', minimum: 0 } } }, ['tokens']);

/** POST /tokenize and POST /detokenize */
export function tokenRoutes(app: FastifyInstance, service: Service): void {
  app.post<{ Body: TokenizeFields }>('/tokenize', { schema: { summary: 'Turns text into token ids', body: TOKENIZE_BODY, response: TOKENIZE_ANSWERS, tags: ['tokens'] } }, async ({ body: fields }) => {
    if (typeof fields.model === 'string') checkModel(service, fields.model);
    const tokens = await service.encoder.text(fields.text, fields.add_special_tokens ?? true);
    return { tokens, count: tokens.length, max_model_len: service.limits.contextLength };
  });

  app.post<{ Body: DetokenizeFields }>('/detokenize', { schema: { summary: 'Turns token ids into text', body: DETOKENIZE_BODY, response: DETOKENIZE_ANSWERS, tags: ['tokens'] } }, async ({ body: fields }) => {
    if (typeof fields.model === 'string') checkModel(service, fields.model);
    return { text: service.model.decode(fields.tokens) };
  });
}
