import type { Command } from 'commander';
import { type GenerateOptions, type GenerationResult, SAMPLE_FILE, type TextModel, WINDOW_ONLY } from '../index.js';
import { comparison, continuation, costs, explanation, heading, lastLines, opening, tokenUnit } from './demo-report.js';
import { stream } from './generate.js';
import { heatMap } from './heat-map.js';
import { type Interrupt, Interrupted, onInterrupt } from './interrupt.js';
import { openModel, print, printJson } from './open.js';
import { addModelOptions, addOutputOptions, addThresholdOption, examples, type ModelFlags, type OutputFlags, whole } from './options.js';
import { Progress } from './progress.js';
import { readTextFile } from './prompt.js';
import { findNotes, type Note, type Trial, trial } from './recall.js';
import { colorDepth, columns, Style } from './terminal.js';

interface Flags extends ModelFlags, OutputFlags {
  maxTokens: number;
  threshold?: number;
}

const THRESHOLDS = [0, 0.3, 0.5, 0.7, WINDOW_ONLY];

export function registerDemo(program: Command): void {
  const command = program
    .command('demo')
    .summary('a tour of about ten seconds')
    .description('Reads a Python file with the bundled model, continues it, and shows what the cache kept and what that cost.')
    .option('-n, --max-tokens <count>', 'tokens to write', whole(1), 200);
  addThresholdOption(command);
  addModelOptions(command);
  addOutputOptions(command, 'write one JSON object with all figures');
  command
    .addHelpText('after', examples('spkv demo', 'spkv demo --threshold 0.7', 'spkv demo --json'))
    .action(async () => demo(command.optsWithGlobals<Flags>()));
}

async function demo(flags: Flags): Promise<void> {
  const text = await readTextFile(SAMPLE_FILE);
  const style = new Style(colorDepth(process.stdout, flags.color));
  const width = Math.min(columns(), 96);
  const show = flags.json ? async () => {} : print;
  using interrupt = onInterrupt();
  using progress = new Progress(!flags.quiet && !flags.json);
  const model = await openModel(flags, progress, interrupt.signal);
  try {
    const unit = tokenUnit(model, text);
    const run = (threshold: number, onPiece: (piece: string) => Promise<void>) =>
      continueText(model, text, { threshold, maxTokens: flags.maxTokens }, interrupt, progress, onPiece);
    await show(`\n${heading('A language model reads a file and goes on writing it', style, width)}\n`);
    await show(`${opening(model, text, unit)}\n\n`);
    // Not before the first piece: the progress bar needs a line of its own.
    let before = lastLines(text, style);
    const pruned = await run(flags.threshold ?? model.threshold, async (piece) => {
      await show(before + continuation(piece, style));
      before = '';
    });
    await show(`${style.dim(' ...')}\n\n`);
    const dense = await run(0, async () => {});
    await show(`${heading('What the cache holds of it', style, width)}\n${explanation(pruned.cache, width)}\n\n${comparison(pruned, dense, style)}\n\n`);
    await show(`${heading('Which layers and heads keep how much', style, width)}\n${heatMap(pruned.cache.densities, style, width)}\n\n`);
    const notes = findNotes(text);
    const trials = await tryThresholds(model, text, notes, interrupt, progress);
    await show(`${heading('What dropping costs', style, width)}\n${costs(trials, notes, unit, style, width)}\n\n`);
    if (flags.json) await printJson({ model: flags.model, file: SAMPLE_FILE, pruned, dense, notes, trials });
  } finally {
    progress.stop();
    model.dispose();
  }
}

async function continueText(
  model: TextModel, text: string, options: GenerateOptions, interrupt: Interrupt, progress: Progress, onPiece: (piece: string) => Promise<void>,
): Promise<GenerationResult> {
  const generation = model.generate(text, {
    ...options,
    signal: interrupt.signal,
    onPrefill: (done, total) => progress.update(options.threshold === 0 ? 'Reading, dense for comparison' : 'Reading', done, total),
  });
  const result = await stream(generation, interrupt, async (piece) => {
    progress.stop();
    await onPiece(piece);
  });
  if (interrupt.requested) throw new Interrupted('interrupted');
  return result;
}

async function tryThresholds(
  model: TextModel, text: string, notes: readonly Note[], interrupt: Interrupt, progress: Progress,
): Promise<Trial[]> {
  const trials: Trial[] = [];
  for (const threshold of THRESHOLDS) {
    trials.push(await trial(model, text, notes, threshold, interrupt.signal));
    progress.update('Reading at five thresholds', trials.length, THRESHOLDS.length);
  }
  return trials;
}
