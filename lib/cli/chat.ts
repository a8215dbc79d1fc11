import { createInterface, type Interface } from 'node:readline';
import type { Command } from 'commander';
import { reportCache, type Session, SpkvError, type TextModel } from '../index.js';
import { Conversation } from './conversation.js';
import { describeError, EXIT } from './exit.js';
import { count, tokens } from './format.js';
import { cacheLine, stream, summary } from './generate.js';
import { type Interrupt, onInterrupt } from './interrupt.js';
import { closeModel, openModel, print, printJson } from './open.js';
import {
  addGenerationOptions, addModelOptions, addOutputOptions, examples, type GenerationFlags, generateOptions,
  type ModelFlags, type OutputFlags,
} from './options.js';
import { shortPath } from './paths.js';
import { Progress } from './progress.js';
import { colorDepth, Style } from './terminal.js';

type Flags = ModelFlags & GenerationFlags & OutputFlags & { system?: string };

const HELP = '/exit leaves, /reset begins anew, /stats shows what the cache holds; Ctrl-C stops an answer';

export function registerChat(program: Command): void {
  const command = program
    .command('chat')
    .summary('talk with a model that has a chat template')
    .description(`Talks with a model, turn by turn; what was said stays in the cache. ${HELP}.\nWith piped stdin every line is one turn.`)
    .option('--system <text>', 'what the model is told before the first turn');
  addGenerationOptions(command);
  addModelOptions(command);
  addOutputOptions(command, 'write one JSON object per turn: user, text, ids, finishReason, usage, cache');
  command
    .addHelpText('after', examples(
      'spkv chat --model ./my-chat-model',
      'spkv chat --model ./my-chat-model --system "Answer in one sentence." --temperature 0.7',
      'printf "Hello\\nWhat did I say?\\n" | spkv chat --model ./my-chat-model --json',
    ))
    .action(async () => chat(command.optsWithGlobals<Flags>()));
}

async function chat(flags: Flags): Promise<void> {
  using progress = new Progress(!flags.quiet && !flags.json);
  using loading = onInterrupt();
  const model = await openModel(flags, progress, loading.signal);
  try {
    if (!model.chatTemplate) {
      throw new SpkvError('UNSUPPORTED', `${shortPath(flags.model)} has no chat template, so it cannot chat; "spkv generate" continues a text with it`);
    }
    loading[Symbol.dispose]();
    await new Chat(model, flags, progress).run();
  } finally {
    closeModel(model);
  }
}

class Chat {
  readonly #model: TextModel;
  readonly #flags: Flags;
  readonly #progress: Progress;
  readonly #session: Session;
  readonly #conversation: Conversation;
  readonly #style: Style;
  readonly #interactive = process.stdin.isTTY === true;

  constructor(model: TextModel, flags: Flags, progress: Progress) {
    this.#model = model;
    this.#flags = flags;
    this.#progress = progress;
    this.#session = model.createSession(flags.threshold === undefined ? {} : { threshold: flags.threshold });
    this.#conversation = new Conversation(model, flags.system);
    this.#style = new Style(colorDepth(process.stderr, flags.color));
  }

  async run(): Promise<void> {
    const lines = createInterface({ input: process.stdin, ...(this.#interactive ? { output: process.stderr } : {}), terminal: this.#interactive });
    // In raw mode readline sees Ctrl-C instead of the process.
    lines.on('SIGINT', () => process.emit('SIGINT'));
    let interrupts = 0;
    const idle = () => {
      if (++interrupts > 1 || !this.#interactive) {
        process.exitCode = EXIT.interrupted;
        lines.close();
        return;
      }
      process.stderr.write(this.#style.dim('\n(Ctrl-C again or /exit leaves)\n'));
      lines.prompt();
    };
    process.on('SIGINT', idle);
    this.#note(`${HELP}\n`);
    lines.setPrompt(this.#style.accent('> '));
    try {
      this.#prompt(lines);
      for await (const line of lines) {
        process.off('SIGINT', idle);
        const go = await this.#turn(line.trim());
        process.on('SIGINT', idle);
        interrupts = 0;
        if (!go) break;
        this.#prompt(lines);
      }
    } finally {
      process.off('SIGINT', idle);
      lines.close();
      await this.#session.dispose();
    }
  }

  /** Answers one line. Resolves with false when the conversation is over. */
  async #turn(line: string): Promise<boolean> {
    switch (line) {
      case '':
        return true;
      case '/exit':
        return false;
      case '/reset':
        this.#conversation.reset();
        await this.#session.reset();
        this.#note('The conversation begins anew.\n');
        return true;
      case '/stats':
        await this.#stats();
        return true;
    }
    if (/^\/\w+$/.test(line)) {
      this.#note(`There is no command ${line}. ${HELP}\n`);
      return true;
    }
    using interrupt = onInterrupt();
    await this.#answer(line, interrupt);
    return true;
  }

  async #answer(user: string, interrupt: Interrupt): Promise<void> {
    const { json } = this.#flags;
    try {
      const prompt = this.#conversation.ask(user);
      const { threshold: _, ...options } = generateOptions(this.#flags);
      const generation = this.#model.generate(prompt, {
        ...options,
        session: this.#session,
        signal: interrupt.signal,
        onPrefill: (done, total) => this.#progress.update('Reading', done, total),
      });
      const result = await stream(generation, interrupt, async (piece) => {
        this.#progress.stop();
        if (!json) await print(piece);
      });
      this.#conversation.answered(prompt, result);
      if (json) await printJson({ user, ...result });
      else await print('\n');
      if (this.#interactive) this.#note(`${summary(result)}\n`);
    } catch (error) {
      this.#progress.stop();
      this.#conversation.takeBack();
      if (interrupt.requested) return this.#note('\n(stopped before the answer began)\n');
      // What a shorter or new conversation would cure must not end an interactive one.
      if (!this.#interactive || !(error instanceof SpkvError)) throw error;
      process.stderr.write(`spkv: ${describeError(error)}\n`);
      this.#note('(/reset begins anew)\n');
    }
  }

  async #stats(): Promise<void> {
    const { sequence } = this.#session;
    const cache = sequence ? await reportCache(sequence) : undefined;
    if (this.#flags.json) return printJson({ stats: cache ?? null });
    const { turns } = this.#conversation;
    const text = cache ? `${count(turns)} ${turns === 1 ? 'turn' : 'turns'}, ${tokens(cache.length)}; ${cacheLine(cache)}` : 'The cache is empty.';
    process.stderr.write(`${this.#style.dim(text)}\n`);
  }

  #prompt(lines: Interface): void {
    if (this.#interactive) lines.prompt();
  }

  #note(text: string): void {
    if (!this.#flags.quiet && !this.#flags.json) process.stderr.write(this.#style.dim(text));
  }
}
