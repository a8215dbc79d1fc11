import { Command } from 'commander';
import { registerBuild } from './build.js';
import { registerChat } from './chat.js';
import { registerDemo } from './demo.js';
import { EXIT_HELP, leaveQuietlyOnClosedPipe, report } from './exit.js';
import { registerGenerate } from './generate.js';
import { registerInspect } from './inspect.js';
import { examples } from './options.js';
import { packageVersion } from './paths.js';

function createProgram(): Command {
  const program = new Command('spkv')
    .description('Language models whose key/value cache keeps only what they will need again.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .option('--no-color', 'no colours')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'spkv: ')) })
    .showHelpAfterError('(--help lists what there is)')
    .exitOverride()
    .addHelpText('after', `${examples('spkv demo', 'spkv generate "class Stack:" --temperature 0.5', 'spkv inspect --sample')}\n${EXIT_HELP}`);
  registerGenerate(program);
  registerChat(program);
  registerInspect(program);
  registerDemo(program);
  registerBuild(program);
  return program;
}

leaveQuietlyOnClosedPipe();
try {
  await createProgram().parseAsync();
} catch (error) {
  process.exitCode = report(error);
}
