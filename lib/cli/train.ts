import type { Command } from 'commander';
import { ranksOf, train, type StepRecord, type TrainEvent, type TrainResult, type ValidationRecord } from '../train/index.js';
import { EXIT } from './exit.js';
import { amount, count, duration, percent, rate } from './format.js';
import { onInterrupt } from './interrupt.js';
import { print, printJson, warner } from './open.js';
import { addOutputOptions, examples } from './options.js';
import { shortPath } from './paths.js';
import { Progress } from './progress.js';
import { StatusLine } from './status-line.js';
import { endWithParent, trainOnGpus } from './train-gpus.js';
import { addTrainOptions, type TrainFlags, trainOptions, withFlagNames } from './train-options.js';

/** Steps whose speed decides what is left. */
const RECENT = 20;
/** How long tokenising may take without a word where stderr is no terminal. */
const QUIET_MS = 5000;
const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

export function registerTrain(program: Command): void {
  const command = program
    .command('train')
    .summary('teach a model which pairs to keep')
    .description(
      'Takes a dense checkpoint and text, and trains the model together with the predictors of utility, by nothing but the loss of the next token: soft gates first, which then become hard. ' +
      'Writes checkpoints, log.jsonl and report.html to --out, and at the end the directory "model". Ctrl-C saves and stops; --resume goes on.',
    );
  addTrainOptions(command);
  addOutputOptions(command, 'write the records of the log to stdout, one JSON object a line, and the result last');
  command
    .addHelpText('after', examples(
      'spkv train --model ./dense --data ./texts --out ./run',
      'spkv train --model ./dense --data ./src --pattern "**/*.py" --tokens-per-parameter 20 --learning-rate 3e-3 --out ./run',
      'spkv train --resume --out ./run',
      'spkv train --model ./dense --data ./texts --gpus 8 --out ./run',
      'spkv train --dense --config ./config.json --tokenizer ./dense --data ./corpus.jsonl --field body --tokens 1e9 --out ./pretrained',
    ))
    .action(async () => run(command.optsWithGlobals<TrainFlags>(), command));
}

async function run(flags: TrainFlags, command: Command): Promise<void> {
  const options = trainOptions(flags, command);
  if (flags.gpus !== undefined && flags.gpus > 1) {
    process.exitCode = await trainOnGpus(flags.gpus, SIGNALS);
    return;
  }
  endWithParent();
  const first = (ranksOf()?.rank ?? 0) === 0;
  using interrupt = onInterrupt(SIGNALS);
  const talks = !flags.quiet && !flags.json;
  using progress = new Progress(talks);
  using status = new StatusLine(talks);
  const narrator = new Narrator(progress, status);
  let result: TrainResult;
  try {
    result = await train({
      ...options,
      signal: interrupt.signal,
      onProgress: (event) => {
        if (flags.json && event.kind !== 'tokenise') void printJson(event);
        if (talks) narrator.tell(event);
      },
      onWarning: (message) => {
        status.clear();
        warner(flags, progress)(message);
      },
    });
  } catch (error) {
    status.clear();
    throw withFlagNames(error);
  }
  status.clear();
  if (first && flags.json) await printJson(result);
  else if (first && !flags.quiet) await print(summary(result));
  if (!result.finished) process.exitCode = EXIT.interrupted;
}

/** Says on stderr what is going on. */
class Narrator {
  #steps = 0;
  #recent: number[] = [];
  /** When tokenising has. */
  #began: number | undefined;

  constructor(
    private readonly progress: Progress,
    private readonly status: StatusLine,
  ) {}

  tell(event: TrainEvent): void {
    switch (event.kind) {
      case 'tokenise':
        return this.#tokenise(event.done, event.total);
      case 'start':
        this.#steps = event.steps;
        this.progress.stop();
        return this.status.say(
          `${amount(event.parameters)} parameters on ${event.ranks > 1 ? `${event.ranks} × ` : ''}${event.device}; ${count(event.trainingTokens)} tokens of data, ${count(event.validationTokens)} more for validation; ` +
          `${event.step === 0 ? '' : `going on after step ${count(event.step)}, `}${count(event.steps)} ${event.steps === 1 ? 'step' : 'steps'}`,
        );
      case 'step':
        return this.status.update(this.#line(event));
      case 'validation':
        return this.status.say(`${count(event.step).padStart(6)}  ${validationLine(event)}`);
      case 'recall':
        return this.status.say(`recall of notes: ${event.results.map(({ threshold, recall, density }) => `τ ${threshold}: ${percent(recall)} at ${percent(density)}`).join(', ')}`);
      default:
    }
  }

  /** A bar on a terminal; elsewhere a line now and then, when it takes long. */
  #tokenise(done: number, total: number): void {
    if (process.stderr.isTTY) return this.progress.update('Tokenising', done, total);
    const now = performance.now();
    this.#began ??= now;
    if (now - this.#began > QUIET_MS) this.status.update(`Tokenising: ${percent(done / total)}`);
  }

  #line({ step, loss, density, tokensPerSecond, utilisation, seconds }: StepRecord): string {
    this.#recent = [...this.#recent.slice(1 - RECENT), seconds];
    const perStep = this.#recent.reduce((sum, value) => sum + value, 0) / this.#recent.length;
    return [
      `step ${count(step)} of ${count(this.#steps)}`, `loss ${loss.toFixed(4)}`, ...(density === null ? [] : [`density ${percent(density)}`]),
      rate(tokensPerSecond, 1), `${percent(utilisation)} of peak`, `${duration(perStep * (this.#steps - step))} left`,
    ].join(' · ');
  }
}

function validationLine({ dense, soft, hard }: ValidationRecord): string {
  if (soft === null) return `validation loss ${dense.toFixed(4)}`;
  const at = hard.map(({ threshold, loss, density }) => `τ ${threshold}: ${loss.toFixed(4)} at ${percent(density)}`);
  return `validation loss ${dense.toFixed(4)} open, ${soft.toFixed(4)} soft, ${at.join(', ')}`;
}

function summary({ finished, step, steps, out, model, checkpoint, validation }: TrainResult): string {
  const lines = finished
    ? [`The model is in ${shortPath(model!)}.`]
    : [`Stopped after step ${count(step)} of ${count(steps)}; saved in ${shortPath(checkpoint)}. Go on with: spkv train --resume --out ${shortPath(out)}`];
  if (finished && validation) lines.push(validationLine(validation).replace(/^v/, 'V'));
  lines.push(`The report is in ${shortPath(out)}/report.html.`);
  return `${lines.join('\n')}\n`;
}
