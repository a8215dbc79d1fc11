import { type Command, Option } from 'commander';
import { adaptOnnx, type AdaptOptions } from '../onnx/index.js';
import { summary } from './export-onnx.js';
import { onInterrupt } from './interrupt.js';
import { print, printJson } from './open.js';
import { addOutputOptions, examples, type OutputFlags, pick, real, whole } from './options.js';
import { Progress } from './progress.js';

interface Flags extends OutputFlags, Pick<AdaptOptions, 'predictors' | 'window' | 'first' | 'threshold' | 'form'> {
  out: string;
}

export function registerAdaptOnnx(program: Command): void {
  const command = program
    .command('adapt-onnx')
    .argument('<model>', 'an ONNX decoder, with config.json beside it')
    .summary('give an ONNX decoder a cache of spkv')
    .description(
      'Rewrites a decoder that exists as ONNX, so that attention and cache are spkv\'s: attention as GroupQueryAttention, MultiHeadAttention or ai.onnx::Attention, or written '
      + 'out with MatMul, Softmax and MatMul. Without predictors it keeps everything, or with --window or --first by a fixed rule. It needs the package protobufjs.',
    )
    .requiredOption('-o, --out <dir>', 'directory to write; an earlier export there is replaced')
    .option('--predictors <file>', 'a .safetensors file with utility predictors, under the names of an spkv checkpoint')
    .option('--window <tokens>', 'tokens that are always kept (default: what config.json says, else 128)', whole(1, 2 ** 20))
    .option('--first <tokens>', 'without predictors: so many tokens at the start are kept for ever', whole(0))
    .option('-t, --threshold <tau>', 'with predictors: utility from which a pair is kept (default: what config.json says, else 0.5)', real(0, 1))
    .addOption(new Option('--form <form>', 'which of the two forms').choices(['parts', 'graph', 'both']).default('both'));
  addOutputOptions(command, 'print what spkv-onnx.json says')
    .addHelpText('after', examples(
      'spkv adapt-onnx ./llama/onnx/model.onnx --out ./llama-spkv',
      'spkv adapt-onnx ./llama/onnx/model_q4.onnx --window 1024 --first 4 --out ./llama-window',
      'spkv adapt-onnx ./llama/model.onnx --predictors ./predictors.safetensors --out ./llama-pruned',
    ))
    .action(async (model: string) => run(model, command.optsWithGlobals<Flags>()));
}

async function run(model: string, flags: Flags): Promise<void> {
  using interrupt = onInterrupt();
  using progress = new Progress(!flags.quiet);
  const manifest = await adaptOnnx(model, flags.out, {
    ...pick(flags, ['predictors', 'window', 'first', 'threshold', 'form']),
    signal: interrupt.signal,
    onProgress: (share) => progress.update('Writing', share, 1),
  });
  await (flags.json ? printJson(manifest) : print(flags.quiet ? '' : summary(flags.out, manifest)));
}
