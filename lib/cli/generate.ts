import type { Command } from 'commander';
import type { ConstraintSource, Generation, GenerationResult } from '../index.js';
import { parseJsonObject } from '../json.js';
import { EXIT } from './exit.js';
import { bytes, count, duration, percent, rate, tokens } from './format.js';
import { type Interrupt, onInterrupt } from './interrupt.js';
import { openModel, print, printJson } from './open.js';
import {
  addGenerationOptions, addModelOptions, addOutputOptions, examples, type GenerationFlags, generateOptions,
  type ModelFlags, type OutputFlags,
} from './options.js';
import { Progress } from './progress.js';
import { type PromptFlags, readPrompt, readTextFile } from './prompt.js';
import { colorDepth, Style } from './terminal.js';

interface ConstraintFlags {
  jsonSchema?: string;
  regex?: string;
}

type Flags = ModelFlags & GenerationFlags & OutputFlags & PromptFlags & ConstraintFlags;

export function registerGenerate(program: Command): void {
  const command = program
    .command('generate')
    .summary('continue a text')
    .description('Continues a text and writes what follows to stdout, as it comes.')
    .argument('[prompt]', 'the text to continue; without it, --file or stdin')
    .option('-f, --file <path>', 'read the prompt from a file; - for stdin')
    .option('--ids', 'the prompt is token ids such as "12 7 450"; needed where a model has no tokenizer');
  addGenerationOptions(command);
  command
    .option('--json-schema <path>', 'write JSON that fits the JSON schema in a file')
    .option('--regex <expression>', 'write what a regular expression of JavaScript describes as a whole');
  addModelOptions(command);
  addOutputOptions(command, 'write one JSON object at the end: text, ids, finishReason, usage, cache');
  command
    .addHelpText('after', examples(
      'spkv generate "def fibonacci(n):" --max-tokens 100',
      'spkv generate --file src/app.py --threshold 0.7 --temperature 0.8 --seed 1',
      'cat notes.txt | spkv generate --stop "." --json',
      'spkv generate --model ./my-model --ids "1 415 2936"',
      'spkv generate "A random number: " --regex "\\d{1,4}"',
    ))
    .action(async (prompt: string | undefined) => generate(prompt, command.optsWithGlobals<Flags>(), command));
}

async function generate(argument: string | undefined, flags: Flags, command: Command): Promise<void> {
  const prompt = await readPrompt(argument, flags, command);
  const source = await constraintSource(flags, command);
  using interrupt = onInterrupt();
  using progress = new Progress(!flags.quiet && !flags.json);
  const model = await openModel(flags, progress, interrupt.signal);
  try {
    const constraint = source && (await model.constrain(source));
    const generation = model.generate(prompt, {
      ...generateOptions(flags),
      ...(constraint && { constraint }),
      signal: interrupt.signal,
      onPrefill: (done, total) => progress.update('Reading', done, total),
    });
    const result = await stream(generation, interrupt, async (piece) => {
      progress.stop();
      if (!flags.json) await print(piece);
    });
    if (flags.json) await printJson(result);
    else if (process.stdout.isTTY && !result.text.endsWith('\n')) await print('\n');
    if (!flags.quiet && !flags.json) {
      process.stderr.write(`${new Style(colorDepth(process.stderr, flags.color)).dim(summary(result))}\n`);
    }
    if (interrupt.requested) process.exitCode = EXIT.interrupted;
  } finally {
    model.dispose();
  }
}

async function constraintSource({ jsonSchema, regex }: ConstraintFlags, command: Command): Promise<ConstraintSource | undefined> {
  if (jsonSchema !== undefined && regex !== undefined) command.error('error: give --json-schema or --regex, not both');
  if (jsonSchema !== undefined) return { jsonSchema: parseJsonObject(await readTextFile(jsonSchema), jsonSchema) };
  return regex === undefined ? undefined : { regex };
}

/** Takes a generation piece by piece until it ends or is interrupted. What has been written then is the result. */
export async function stream(
  generation: Generation, interrupt: Interrupt, onPiece: (piece: string) => Promise<void>,
): Promise<GenerationResult> {
  for await (const piece of generation) {
    interrupt.handOver();
    await onPiece(piece);
    if (interrupt.requested) break;
  }
  return generation.result;
}

/** What was read and written, how fast, and what the cache holds of it. */
export function summary({ usage, cache, finishReason }: GenerationResult): string {
  const { promptTokens, cachedTokens, completionTokens, prefillSeconds, decodeSeconds } = usage;
  const fresh = promptTokens - 1 - cachedTokens;
  const read = fresh > 0 ? `read ${tokens(promptTokens)}${speed(fresh, prefillSeconds)}` : `read ${tokens(promptTokens)}`;
  const written = `wrote ${count(completionTokens)}${speed(completionTokens, decodeSeconds)}`;
  const why = finishReason === 'cancelled' ? ', interrupted' : finishReason === 'length' ? ', length limit' : '';
  return `[${read} · ${written}${why}]\n[${cacheLine(cache)}]`;
}

export function cacheLine({ pairs, densePairs, bytes: held, denseBytes, threshold, length, window }: GenerationResult['cache']): string {
  const share = densePairs === 0 ? '' : ` (${percent(pairs / densePairs)})`;
  const note = length <= window ? `; ${length === 1 ? 'the token is' : `all ${tokens(length)} are`} still in the window of ${window}` : '';
  return `cache at τ ${threshold}: ${count(pairs)} of ${count(densePairs)} pairs held${share}, ${bytes(held)} against ${bytes(denseBytes)} dense${note}`;
}

function speed(done: number, seconds: number): string {
  return ` in ${duration(seconds)} (${rate(done, seconds)})`;
}
