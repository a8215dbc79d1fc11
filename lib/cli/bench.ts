import { type Command, InvalidArgumentError, Option } from 'commander';
import { benchmarkDecode, type DecodeResult } from '../benchmark/decode.js';
import { type Skew, SKEWS } from '../benchmark/densities.js';
import { GEOMETRIES, geometry, type GeometryName, streamedWeights } from '../benchmark/geometries.js';
import { benchmarkPrefill, type PrefillResult } from '../benchmark/prefill.js';
import { randomNetwork } from '../benchmark/random-network.js';
import { CACHE_DTYPES, type CacheDType, openDevice } from '../index.js';
import { amount, bytes, count, duration, percent, rate, table } from './format.js';
import { onInterrupt } from './interrupt.js';
import { print, printJson, warner } from './open.js';
import { addOutputOptions, DEVICE_HELP, examples, list, type OutputFlags, whole } from './options.js';
import { Progress } from './progress.js';
import { colorDepth, Style } from './terminal.js';

interface Flags extends OutputFlags {
  geometry: GeometryName;
  device?: string;
  cacheDtype: CacheDType[];
  density: number[];
  skew: Skew;
}

interface DecodeFlags extends Flags {
  batch: number[];
  context: number[];
  steps: number;
}

interface PrefillFlags extends Flags {
  tokens: number[];
  chunk: number;
  repeats: number;
}

type Network = Awaited<ReturnType<typeof randomNetwork>>;

export function registerBench(program: Command): void {
  const bench = program
    .command('bench')
    .summary('times whole steps at the size of real models')
    .description('Builds a network of a real size with random weights and times it. Lists of values are measured one after another and compared with the last.');
  const decode = common(bench.command('decode').summary('decode steps over long sequences').description('Times decode steps over sequences that have kept drawn shares of their pairs.'))
    .option('--batch <counts>', 'sequences that decode together', list(wholeText(1)), [16])
    .option('--context <tokens>', 'tokens that each sequence has seen, such as 8k,32k', list(tokenCount), [8192])
    .option('--steps <count>', 'measured steps', whole(1), 30)
    .addHelpText('after', examples('spkv bench decode --geometry llama-3-8b --device cuda:0 --batch 16 --context 32k --density 0.25,1', 'spkv bench decode --device cuda:0 --context 32k --cache-dtype fp8,bf16', 'spkv bench decode --geometry llama-110m --batch 1 --context 2k'));
  decode.action(() => run(decode.optsWithGlobals<DecodeFlags>(), decodeAll));
  const prefill = common(bench.command('prefill').summary('whole prompts').description('Times prompts with predictors that keep drawn shares of the pairs.'))
    .option('--tokens <counts>', 'tokens of the prompt, such as 8k,32k', list(tokenCount), [8192])
    .option('--chunk <tokens>', 'tokens of one step', tokenCount, 2048)
    .option('--repeats <count>', 'measured prompts', whole(1), 5)
    .addHelpText('after', examples('spkv bench prefill --geometry qwen3-0.6b --device cuda:0 --tokens 32k --density 0.1,0.25,1'));
  prefill.action(() => run(prefill.optsWithGlobals<PrefillFlags>(), prefillAll));
}

function common(command: Command): Command {
  const dtypes = list((text) => {
    const dtype = CACHE_DTYPES.find((name) => name === text.trim());
    if (dtype) return dtype;
    throw new InvalidArgumentError(`Expected some of ${CACHE_DTYPES.join(', ')}, such as fp8,bf16.`);
  });
  const densities = list((text) => {
    const value = Number(text);
    if (text.trim() !== '' && value >= 0 && value <= 1) return value;
    throw new InvalidArgumentError('Expected shares from 0 to 1, such as 0.25,1.');
  });
  command
    .addOption(new Option('--geometry <name>', 'whose sizes the network has').choices(GEOMETRIES).default('llama-110m'))
    .option('--device <name>', DEVICE_HELP)
    .option('--cache-dtype <types>', 'how keys and values are stored, such as fp8,bf16', dtypes, ['bf16'])
    .option('--density <shares>', 'average share of pairs kept; 1 is dense', densities, [0.25, 1])
    .addOption(new Option('--skew <kind>', 'how the share differs between heads').choices(SKEWS).default('beta'));
  return addOutputOptions(command, 'write one JSON object with settings and results');
}

function wholeText(min: number): (text: string) => number {
  return (text) => whole(min)(text);
}

/** 8192 or 8k. */
function tokenCount(text: string): number {
  const match = /^(\d+)(k?)$/i.exec(text.trim());
  const value = match ? Number(match[1]) * (match[2] ? 1024 : 1) : 0;
  if (value >= 1 && value <= 2 ** 24) return value;
  throw new InvalidArgumentError('Expected a number of tokens such as 512 or 32k.');
}

type Tell = (label: string) => (share: number) => void;

async function run<F extends Flags, R extends object>(
  flags: F, measure: (flags: F, network: Network, tell: Tell, signal: AbortSignal) => Promise<{ results: R[]; text: (style: Style) => string }>,
): Promise<void> {
  using interrupt = onInterrupt();
  using progress = new Progress(!flags.quiet && !flags.json);
  using device = openDevice(flags.device ?? 'auto', { onWarning: warner(flags, progress) });
  const config = geometry(flags.geometry);
  const tell: Tell = (label) => (share) => progress.update(label, share, 1);
  const network = await randomNetwork(device, config, tell('Making weights'), interrupt.signal);
  const { results, text } = await measure(flags, network, tell, interrupt.signal);
  progress.stop();
  const about = { geometry: flags.geometry, device: device.name, description: device.description, skew: flags.skew };
  if (flags.json) {
    await printJson({ ...about, results });
    return;
  }
  const style = new Style(colorDepth(process.stdout, flags.color));
  const parameters = amount(streamedWeights(config));
  await print(`${style.bold(`${flags.geometry}, random weights (${parameters}, bf16)`)} on ${device.name} (${device.description})\n\n${text(style)}\n`);
}

/** Every combination, the first list changing slowest. */
function combinations<A, B, C>(a: readonly A[], b: readonly B[], c: readonly C[]): [A, B, C][] {
  return a.flatMap((x) => b.flatMap((y) => c.map((z): [A, B, C] => [x, y, z])));
}

async function decodeAll(flags: DecodeFlags, network: Network, tell: Tell, signal: AbortSignal) {
  const results: DecodeResult[] = [];
  for (const cacheDtype of flags.cacheDtype) {
    for (const [batch, context, density] of combinations(flags.batch, flags.context, flags.density)) {
      const settings = { cacheDtype, batch, context, density, skew: flags.skew, steps: flags.steps };
      results.push(await benchmarkDecode(network, settings, tell(`Filling ${batch} × ${count(context)} at ${density}`), signal));
    }
  }
  const text = (style: Style) =>
    table(
      style,
      ['batch × context', 'cache', 'density', 'step', 'tokens/s', 'cache read', 'read per second', 'time', 'bytes read'],
      results.map((one) => {
        const last = results.findLast(({ batch, context }) => batch === one.batch && context === one.context)!;
        return [
          `${one.batch} × ${count(one.context)}`, one.cacheDtype, percent(one.measuredDensity), milliseconds(one.seconds.median), count(one.tokensPerSecond),
          bytes(one.cacheBytes), `${(one.bytesPerSecond / 1e9).toFixed(0)} GB`,
          times(last.seconds.median / one.seconds.median),
          times((last.weightBytes + last.cacheBytes) / (one.weightBytes + one.cacheBytes)),
        ];
      }),
    );
  return { results, text };
}

async function prefillAll(flags: PrefillFlags, network: Network, tell: Tell, signal: AbortSignal) {
  const results: PrefillResult[] = [];
  for (const [cacheDtype, tokens, density] of combinations(flags.cacheDtype, flags.tokens, flags.density)) {
    const settings = { cacheDtype, tokens, chunk: Math.min(flags.chunk, tokens), density, skew: flags.skew, repeats: flags.repeats };
    results.push(await benchmarkPrefill(network, settings, tell(`Reading ${count(tokens)} at ${density}`), signal));
  }
  const text = (style: Style) =>
    table(
      style,
      ['tokens', 'cache', 'density', 'time', 'speed', 'against the last'],
      results.map((one) => {
        const last = results.findLast(({ tokens }) => tokens === one.tokens)!;
        return [
          count(one.tokens), one.cacheDtype, percent(one.measuredDensity), duration(one.seconds.median), rate(one.tokens, one.seconds.median),
          times(last.seconds.median / one.seconds.median),
        ];
      }),
    );
  return { results, text };
}

function milliseconds(seconds: number): string {
  return `${(seconds * 1000).toFixed(2)} ms`;
}

function times(ratio: number): string {
  return `${ratio.toFixed(2)}×`;
}
