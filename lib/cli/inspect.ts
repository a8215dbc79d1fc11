import type { Command } from 'commander';
import { type Checkpoint, evaluate, type Evaluation, openCheckpoint, SAMPLE_FILE, type TextModel } from '../index.js';
import { loadChatTemplate } from '../text/chat-template.js';
import { describeConfig, memory, type Memory, prunedBytes, tensorGroups } from './architecture.js';
import { amount, bytes, count, duration, fields, indent, percent, rate, table, wrap } from './format.js';
import { heatMap } from './heat-map.js';
import { onInterrupt } from './interrupt.js';
import { openModel, print, printJson } from './open.js';
import { addModelOptions, addOutputOptions, addThresholdOption, examples, type ModelFlags, type OutputFlags } from './options.js';
import { shortPath } from './paths.js';
import { Progress } from './progress.js';
import { parseIds, readTextFile } from './prompt.js';
import { colorDepth, columns, Style } from './terminal.js';

interface Flags extends ModelFlags, OutputFlags {
  file?: string;
  sample?: boolean;
  ids?: boolean;
  threshold?: number;
  tensors?: boolean;
}

/** A text read through the cache. */
interface Measurement extends Evaluation {
  file: string;
  /** Tokens of the file, of which the model's positions may not take all. */
  fileTokens: number;
}

const THOUSAND = 1000;

export function registerInspect(program: Command): void {
  const command = program
    .command('inspect')
    .summary('what a checkpoint is made of, and what its cache keeps')
    .description('Shows architecture, parameters and cache memory of a checkpoint; with a text also which share of the pairs each layer and head keeps of it.')
    .option('-f, --file <path>', 'read this text and measure what is kept of it')
    .option('--sample', 'measure with the Python file that comes with spkv')
    .option('--ids', 'the file holds token ids such as "12 7 450"; needed where a model has no tokenizer')
    .option('--tensors', 'list all tensors');
  addThresholdOption(command);
  addModelOptions(command);
  addOutputOptions(command, 'write one JSON object with all of it');
  command
    .addHelpText('after', examples(
      'spkv inspect --sample',
      'spkv inspect --model ./my-model --tensors',
      'spkv inspect --model ./my-model --file book.txt --threshold 0.7 --json',
    ))
    .action(async () => inspect(command.optsWithGlobals<Flags>(), command));
}

async function inspect(flags: Flags, command: Command): Promise<void> {
  if (flags.sample && flags.file !== undefined) command.error('error: give --file or --sample, not both');
  const file = flags.sample ? SAMPLE_FILE : flags.file;
  const checkpoint = await openCheckpoint(flags.model);
  const measurement = file === undefined ? undefined : await measure(file, flags, command);
  const chatTemplate = checkpoint.hasTokenizer && (await loadChatTemplate(flags.model)) !== undefined;
  const figures = memory(checkpoint, flags.cacheDtype);
  if (flags.json) await printJson(toJson(checkpoint, chatTemplate, figures, measurement));
  else await print(`${toText(checkpoint, chatTemplate, figures, measurement, flags)}\n`);
}

async function measure(file: string, flags: Flags, command: Command): Promise<Measurement> {
  const text = await readTextFile(file);
  using interrupt = onInterrupt();
  using progress = new Progress(!flags.quiet && !flags.json);
  const model: TextModel = await openModel(flags, progress, interrupt.signal);
  try {
    const all = flags.ids ? parseIds(text, command) : model.encode(text);
    if (all.length < 2) command.error(`error: ${file} has ${all.length} tokens; at least 2 are needed`);
    const evaluation = await evaluate(model, all.slice(0, model.config.maxPositions), {
      ...(flags.threshold === undefined ? {} : { threshold: flags.threshold }),
      onProgress: (done, total) => progress.update('Reading', done, total),
      signal: interrupt.signal,
    });
    return { ...evaluation, file, fileTokens: all.length };
  } finally {
    progress.stop();
    model.dispose();
  }
}

function toJson(checkpoint: Checkpoint, chatTemplate: boolean, figures: Memory, measurement: Measurement | undefined): object {
  const { config, dir, tensors, hasTokenizer } = checkpoint;
  const groups = tensorGroups(checkpoint);
  return {
    model: dir,
    config,
    tokenizer: hasTokenizer,
    chatTemplate,
    parameters: groups.reduce((sum, group) => sum + group.parameters, 0),
    bytes: checkpoint.bytes,
    groups,
    tensors: [...tensors.values()].map(({ name, file, dtype, shape, bytes: size }) => ({ name, file, dtype, shape, bytes: size })),
    memory: {
      ...figures,
      denseBytesPerThousandTokens: figures.denseBytesPerToken * THOUSAND,
      ...(measurement ? { prunedBytesPerThousandTokens: figures.denseBytesPerToken * THOUSAND * measurement.cache.density } : {}),
    },
    measurement,
  };
}

function toText(checkpoint: Checkpoint, chatTemplate: boolean, figures: Memory, measurement: Measurement | undefined, flags: Flags): string {
  const style = new Style(colorDepth(process.stdout, flags.color));
  const sections = [architecture(checkpoint, chatTemplate, style), parameters(checkpoint, style)];
  if (flags.tensors) sections.push(tensorList(checkpoint, style));
  sections.push(memoryTable(checkpoint, figures, measurement, style));
  if (measurement) sections.push(density(measurement, style));
  return sections.join('\n\n');
}

function architecture({ dir, config, hasTokenizer }: Checkpoint, chatTemplate: boolean, style: Style): string {
  const text = hasTokenizer ? (chatTemplate ? 'tokenizer and chat template' : 'tokenizer, no chat template') : 'none: the model takes token ids';
  return `${style.bold(shortPath(dir))}\n\n${fields(style, [...describeConfig(config), ['text', text]])}`;
}

function parameters(checkpoint: Checkpoint, style: Style): string {
  const groups = tensorGroups(checkpoint);
  const total = groups.reduce((sum, group) => sum + group.parameters, 0);
  const rows = groups.map((group) => [group.kind, count(group.tensors), amount(group.parameters), percent(group.parameters / total), bytes(group.bytes)]);
  rows.push(['together', count(checkpoint.tensors.size), amount(total), '', bytes(checkpoint.bytes)]);
  return table(style, ['parameters', 'tensors', 'count', 'share', 'size'], rows);
}

function tensorList({ tensors }: Checkpoint, style: Style): string {
  const rows = [...tensors.values()].map(({ name, dtype, shape, bytes: size }) => [name, dtype, shape.join(' × '), bytes(size)]);
  return table(style, ['tensor', 'type', 'shape', 'size'], rows);
}

function memoryTable({ config }: Checkpoint, figures: Memory, measurement: Measurement | undefined, style: Style): string {
  const { maxPositions, spkv } = config;
  const window = spkv?.window ?? 0;
  const full = (density: number) => bytes(prunedBytes(figures, window, maxPositions, density));
  const row = (name: string, density: number) => [name, bytes(figures.denseBytesPerToken * THOUSAND * density), full(density)];
  const rows = [row('dense', 1)];
  if (measurement) rows.push(row(`τ ${measurement.threshold} (${percent(measurement.cache.density)} kept, as measured)`, measurement.cache.density));
  if (spkv) rows.push(row('window only', 0));
  const notes = [`stored as ${figures.cacheDtype}; one key/value pair takes ${bytes(figures.pairBytes)}`];
  if (spkv) notes.push(`the window of ${window} tokens takes ${bytes(figures.windowBytes)}, once`);
  if (spkv && !measurement) notes.push('what a threshold keeps depends on the text: measure with --file or --sample');
  return `${table(style, ['cache memory', 'per 1,000 tokens', `at ${count(maxPositions)} tokens`], rows)}\n${indent(style.dim(notes.join('\n')))}`;
}

function density({ file, fileTokens, tokens, seconds, loss, threshold, cache }: Measurement, style: Style): string {
  const cut = fileTokens > tokens ? `the first ${count(tokens)} of ${count(fileTokens)} tokens` : `${count(tokens)} tokens`;
  const title = style.bold(`${shortPath(file)} at τ ${threshold}`);
  const facts = fields(style, [
    ['read', `${cut} in ${duration(seconds)} (${rate(tokens, seconds)})`],
    ['loss', `${loss.toFixed(4)} nats per token`],
    ['kept', `${percent(cache.density)} of the pairs that have left the window`],
    ['held', `${count(cache.pairs)} of ${count(cache.densePairs)} pairs, ${bytes(cache.bytes)} against ${bytes(cache.denseBytes)} dense`],
  ]);
  const note = cache.length <= cache.window ? '\nThe text fits the window, so nothing had to be dropped.' : '';
  const caption = wrap(`Share of pairs kept, by layer and key/value head:${note}`, columns() - 2);
  return `${title}\n\n${facts}\n\n${indent(style.dim(caption))}\n\n${heatMap(cache.densities, style, columns())}`;
}
