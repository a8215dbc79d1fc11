import { type Command, Option } from 'commander';
import { BUNDLED_MODEL } from '../index.js';
import { exportOnnx, type ExportOptions, ONNX_DTYPES, type OnnxDtype, type OnnxManifest } from '../onnx/index.js';
import { onInterrupt } from './interrupt.js';
import { print, printJson, warner } from './open.js';
import { addOutputOptions, examples, type OutputFlags, pick } from './options.js';
import { shortPath } from './paths.js';
import { Progress } from './progress.js';

interface Flags extends OutputFlags {
  model: string;
  out: string;
  dtype: OnnxDtype;
  form: NonNullable<ExportOptions['form']>;
}

export function registerExportOnnx(program: Command): void {
  const command = program
    .command('export-onnx')
    .summary('write a model as ONNX')
    .description(
      'Writes a checkpoint as ONNX, for onnxruntime: in parts split at the attention, which any onnxruntime runs, and as one graph with the '
      + 'operator ai.spkv::SelfPrunedAttention. Both share one file of weights. It needs the package protobufjs.',
    )
    .addOption(new Option('-m, --model <dir>', 'checkpoint directory').default(BUNDLED_MODEL, 'the bundled code-6m-spkv'))
    .requiredOption('-o, --out <dir>', 'directory to write; an earlier export there is replaced')
    .addOption(new Option('--dtype <type>', 'how matrices are stored').choices(ONNX_DTYPES).default('f32'))
    .addOption(new Option('--form <form>', 'which of the two forms').choices(['parts', 'graph', 'both']).default('both'));
  addOutputOptions(command, 'print what spkv-onnx.json says')
    .addHelpText('after', examples('spkv export-onnx --out ./code-6m-onnx', 'spkv export-onnx --model ./some-model --dtype int4 --form parts --out ./some-model-int4'))
    .action(async () => run(command.optsWithGlobals<Flags>()));
}

async function run(flags: Flags): Promise<void> {
  using interrupt = onInterrupt();
  using progress = new Progress(!flags.quiet);
  const manifest = await exportOnnx(flags.model, flags.out, {
    ...pick(flags, ['dtype', 'form']),
    signal: interrupt.signal,
    onProgress: (share) => progress.update('Writing', share, 1),
    onWarning: warner(flags, progress),
  });
  await (flags.json ? printJson(manifest) : print(flags.quiet ? '' : summary(flags.out, manifest)));
}

export function summary(out: string, { dtype, graph, parts }: OnnxManifest): string {
  const forms = [...(parts ? [`${parts.length} parts`] : []), ...(graph ? [`one graph (${graph})`] : [])];
  return `Wrote ${shortPath(out)}: ${forms.join(' and ')}${dtype === 'mixed' ? '' : `, weights ${dtype}`}.\n`;
}
