import { Command, type OutputConfiguration } from 'commander';
import { packageVersion } from '../version.js';
import { registerAdaptOnnx } from './adapt-onnx.js';
import { registerBench } from './bench.js';
import { registerBuild } from './build.js';
import { registerChat } from './chat.js';
import { registerDemo } from './demo.js';
import { EXIT_HELP } from './exit.js';
import { registerExportOnnx } from './export-onnx.js';
import { registerGenerate } from './generate.js';
import { registerInspect } from './inspect.js';
import { examples } from './options.js';
import { registerServe } from './serve.js';
import { registerTrain } from './train.js';

/** All commands. `output` takes what commander writes itself: help and usage errors. */
export function createProgram(output: OutputConfiguration = {}): Command {
  const program = new Command('spkv')
    .description('Language models whose key/value cache keeps only what they will need again.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .option('--no-color', 'no colours')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'spkv: ')), ...output })
    .showHelpAfterError('(--help lists what there is)')
    .exitOverride()
    .addHelpText('after', `${examples('spkv demo', 'spkv generate "class Stack:" --temperature 0.5', 'spkv inspect --sample')}\n${EXIT_HELP}`);
  registerGenerate(program);
  registerChat(program);
  registerServe(program);
  registerInspect(program);
  registerTrain(program);
  registerExportOnnx(program);
  registerAdaptOnnx(program);
  registerDemo(program);
  registerBench(program);
  registerBuild(program);
  return program;
}
