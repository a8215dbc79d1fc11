import { type Command, Option } from 'commander';
import { SpkvError } from '../errors.js';
import { LOG_LEVELS, type LogLevel } from '../server/options.js';
import type { createServer, Server, ServerOptions } from '../server/server.js';
import { EXIT } from './exit.js';
import { onInterrupt } from './interrupt.js';
import { openModel } from './open.js';
import { addModelOptions, examples, type ModelFlags, size, whole } from './options.js';
import { Progress } from './progress.js';

interface Flags extends ModelFlags {
  host: string;
  port: number;
  name?: string;
  apiKey?: string[];
  maxSequences?: number;
  maxWaiting?: number;
  maxPromptTokens?: number;
  maxTokens?: number;
  maxBody?: number;
  timeout?: number;
  drain?: number;
  logLevel: LogLevel;
  quiet?: boolean;
  color: boolean;
}

const PACKAGES = ['fastify', '@fastify/swagger', 'prom-client'];

export function registerServe(program: Command): void {
  const command = program
    .command('serve')
    .summary('serve a model in the way of OpenAI\'s API')
    .description(
      'Serves a model to many clients at once, in the way of OpenAI\'s API: /v1/chat/completions, /v1/completions, /v1/models, /metrics; '
      + '/openapi.json describes all, and / is a page that shows what the model keeps. SIGTERM and Ctrl-C let answers end that are being written; a second one breaks them off.',
    );
  addModelOptions(command)
    .option('--host <address>', 'where to listen; 0.0.0.0 lets other machines in', '127.0.0.1')
    .option('-p, --port <number>', 'where to listen; 0 takes one that is free', whole(0, 65_535), 8000)
    .option('--name <name>', 'what requests call the model (default: the name of its directory)')
    .addOption(new Option('--api-key <key>', 'a key that requests must bring; repeatable. The environment does not show it to others').env('SPKV_API_KEY').argParser(keys))
    .option('--max-sequences <count>', 'most texts written at a time (default: 32)', whole(1, 4096))
    .option('--max-waiting <count>', 'most requests that wait; one more is refused with status 429 (default: 256)', whole(0))
    .option('--max-prompt-tokens <count>', 'most tokens of a prompt (default: what the model has room for)', whole(1))
    .option('--max-tokens <count>', 'most tokens of a text (default: what the model has room for)', whole(1))
    .option('--max-body <size>', 'most bytes of a request (default: 8M)', size)
    .option('--timeout <seconds>', 'time in which a request must be answered; 0 is no limit (default: 600)', whole(0, 86_400))
    .option('--drain <seconds>', 'time that answers have to end when the server closes (default: 30)', whole(0, 86_400))
    .addOption(new Option('--log-level <level>', 'least level of the log, JSON lines on stdout').choices(LOG_LEVELS).default('info'))
    .option('-q, --quiet', 'nothing on stderr')
    .addHelpText('after', examples(
      'spkv serve',
      'SPKV_API_KEY=secret spkv serve --model ./my-chat-model --host 0.0.0.0 --port 80',
      'curl localhost:8000/v1/completions -H "content-type: application/json" -d \'{"model": "code-6m-spkv", "prompt": "def walk(", "max_tokens": 60}\'',
    ))
    .action(async () => serve(command.optsWithGlobals<Flags>()));
}

/** Several in one variable of the environment have commas between them. */
function keys(value: string, before: string[] = []): string[] {
  return [...before, ...value.split(',')];
}

async function serve(flags: Flags): Promise<void> {
  const library = await loadServer();
  using progress = new Progress(!flags.quiet);
  using loading = onInterrupt();
  const model = await openModel(flags, progress, loading.signal);
  try {
    const server = await library.createServer(model, serverOptions(flags));
    const address = await server.listen({ host: flags.host, port: flags.port }).catch(async (error: NodeJS.ErrnoException) => {
      await server.close({ abort: true });
      throw new SpkvError('INVALID_ARGUMENT', `Cannot listen at ${flags.host}:${flags.port} (${error.code ?? error.message}); choose another --host or --port`, { cause: error });
    });
    loading[Symbol.dispose]();
    if (!flags.quiet) {
      process.stderr.write(`spkv: ${server.name} is served at ${address}; a browser shows a page there, Ctrl-C ends it\n`);
      if (server.exposed) process.stderr.write('spkv: whoever reaches this machine may use it; --api-key asks for a key\n');
    }
    await untilClosed(server);
  } finally {
    model.dispose();
  }
}

/** The packages of the server are installed by those who want one. */
async function loadServer(): Promise<{ createServer: typeof createServer }> {
  try {
    return await import('../server/server.js');
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== 'ERR_MODULE_NOT_FOUND' || !PACKAGES.some((name) => message.includes(`'${name}'`))) throw error;
    throw new SpkvError('UNSUPPORTED', `The server needs packages that are not installed; install them with: npm install ${PACKAGES.join(' ')}`, { cause: error });
  }
}

function serverOptions(flags: Flags): ServerOptions {
  const { name, apiKey: apiKeys, maxPromptTokens, maxTokens, maxBody: maxBodyBytes, timeout, drain, maxSequences, maxWaiting, logLevel } = flags;
  const answerTimeout = timeout === undefined ? undefined : timeout * 1000;
  const drainTimeout = drain === undefined ? undefined : drain * 1000;
  return given({
    name, apiKeys, maxPromptTokens, maxTokens, maxBodyBytes, answerTimeout, drainTimeout, logLevel, engine: given({ maxSequences, maxWaiting }),
  });
}

function given<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

/** Resolves when the server has closed: after a first signal in good order, after a second at once. */
async function untilClosed(server: Server): Promise<void> {
  let signals = 0;
  let ended!: () => void;
  const signalled = new Promise<void>((resolve) => (ended = resolve));
  const listener = () => {
    signals++;
    ended();
    if (signals === 1) return;
    process.exitCode = EXIT.interrupted;
    void server.close({ abort: true });
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, listener);
  try {
    await signalled;
    await server.close();
  } finally {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.off(signal, listener);
  }
}
