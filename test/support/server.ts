import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import OpenAI from 'openai';
import { writeSafetensors } from '../../lib/checkpoint/safetensors-write.js';
import { type Device, loadModel, type ModelOptions, type TextModel } from '../../lib/index.js';
import { createServer, type Server, type ServerOptions } from '../../lib/server/server.js';
import { SPKV, tinyConfig, tinyTensors, writeRandomCheckpoint } from './checkpoints.js';
import { byteLevel } from './tokenizers.js';

/** Roles as in ChatML, and no system message after the first. */
export const TEMPLATE = `{% for message in messages %}{% if message.role == 'system' and not loop.first %}{{ raise_exception('system comes first') }}{% endif %}[{{ message.role }}] {{ message.content }}
{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}`;

/** A very small random model with a tokenizer and a chat template. With `poison`, that token's embedding is NaN. */
export async function chatModel(root: string, options: ModelOptions & { device: Device; pages?: number; poison?: number }): Promise<TextModel> {
  const { pages = 4000, poison, ...given } = options;
  const tokenizer = byteLevel();
  const end = 266;
  const config = tinyConfig('llama', { spkv: SPKV, vocab_size: 268, bos_token_id: end - 1, eos_token_id: end, max_position_embeddings: 512 });
  const { dir, tensors } = await writeRandomCheckpoint(join(root, `chat-${pages}-${poison}`), config, 7);
  if (poison !== undefined) {
    const width = config['hidden_size'] as number;
    tensors.get('model.embed_tokens.weight')!.fill(0x7fc0, poison * width, (poison + 1) * width);
    await writeSafetensors(join(dir, 'model.safetensors'), tinyTensors(config).map((tensor) => ({ ...tensor, data: tensors.get(tensor.name)! })));
  }
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(tokenizer));
  writeFileSync(join(dir, 'chat_template.jinja'), TEMPLATE);
  return loadModel(dir, { chunk: 32, kvMemory: pages * options.device.pageBytes(4, 'bf16'), ...given });
}

export interface Running extends AsyncDisposable {
  server: Server;
  url: string;
  client: OpenAI;
  /** Sends JSON and gives what comes back. */
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<{ status: number; headers: Headers; body: any }>;
  get(path: string, headers?: Record<string, string>): Promise<{ status: number; headers: Headers; body: any }>;
  /** A gauge or counter of /metrics. */
  metric(name: string): Promise<number>;
}

/** A server on a free port of this machine, with clients. */
export async function startServer(model: TextModel, options: ServerOptions = {}): Promise<Running> {
  const server = await createServer(model, options);
  const url = await server.listen({ port: 0 });
  const headers = options.apiKeys?.[0] === undefined ? {} : { authorization: `Bearer ${options.apiKeys[0]}` };
  const read = async (response: Response) => {
    const text = await response.text();
    const json = response.headers.get('content-type')?.startsWith('application/json');
    return { status: response.status, headers: response.headers, body: json ? JSON.parse(text) : text };
  };
  const running: Running = {
    server,
    url,
    client: new OpenAI({ baseURL: `${url}/v1`, apiKey: options.apiKeys?.[0] ?? 'none', maxRetries: 0 }),
    post: async (path, body, more) =>
      read(await fetch(`${url}${path}`, { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body), headers: { 'content-type': 'application/json', ...headers, ...more } })),
    get: async (path, more) => read(await fetch(`${url}${path}`, { headers: { ...headers, ...more } })),
    async metric(name) {
      const { body } = await running.get('/metrics');
      const line = (body as string).split('\n').find((text) => text.startsWith(`${name} `));
      if (line === undefined) throw new Error(`/metrics has no ${name}`);
      return Number(line.slice(name.length + 1));
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
  return running;
}

/** The objects of an event stream, without the mark at its end. */
export function sseEvents(text: string): any[] {
  const lines = text.split('\n\n').filter(Boolean).map((line) => line.replace(/^data: /, ''));
  if (lines.at(-1) === '[DONE]') lines.pop();
  return lines.map((line) => JSON.parse(line));
}
