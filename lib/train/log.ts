import { appendFile, readFile } from 'node:fs/promises';
import { failure, kindOf } from '../files.js';
import type { RecallResult } from './recall.js';
import { writeWhole } from '../write.js';

/** What a run writes to its log, one JSON object a line. Steps are counted from 1: the number of steps done. */
export type LogRecord = StartRecord | StepRecord | ValidationRecord | SaveRecord | RecallRecord | EndRecord;

export interface StartRecord {
  kind: 'start';
  step: number;
  /** Of the whole run. */
  steps: number;
  time: string;
  device: string;
  /** Processes that train together, each on such a device. */
  ranks: number;
  /** All settings, with their defaults. */
  settings: Readonly<Record<string, unknown>>;
  parameters: number;
  trainingTokens: number;
  validationTokens: number;
  /** Floating-point operations per second that the device reaches in a matrix product. */
  peakFlops: number;
}

export interface StepRecord {
  kind: 'step';
  step: number;
  /** Trained on since the beginning of the run. */
  tokens: number;
  mode: 'dense' | 'soft' | 'annealed';
  alpha: number;
  learningRate: number;
  /** Mean cross-entropy of the step, in nats per token. */
  loss: number;
  /** Share kept at the run's threshold, among pairs that leave the window; null for a dense run. */
  density: number | null;
  gradientNorm: number;
  seconds: number;
  tokensPerSecond: number;
  /** Model FLOP utilisation: what the model itself needs, as a share of the peak. */
  utilisation: number;
}

/** A loss, and the density at which it was reached, with hard gates at one threshold. */
export interface HardResult {
  threshold: number;
  loss: number;
  density: number;
}

export interface ValidationRecord {
  kind: 'validation';
  step: number;
  tokens: number;
  /** With all gates open. */
  dense: number;
  /** With soft gates; null for a dense run, as is what follows. */
  soft: number | null;
  hard: HardResult[];
  /** At the run's threshold, by layer and KV head. */
  densities: number[][] | null;
  /** Shares of utilities in equal steps from 0 to 1, by layer, KV head and step. */
  histograms: number[][][] | null;
}

export interface SaveRecord {
  kind: 'save';
  step: number;
  path: string;
  best: boolean;
}

/** At the end of a run with needles: what the finished model remembers of notes in held-out text. */
export interface RecallRecord {
  kind: 'recall';
  step: number;
  results: RecallResult[];
}

export interface EndRecord {
  kind: 'end';
  step: number;
  reason: 'finished' | 'stopped';
}

/** The log of a run: lines are added, and those after a checkpoint go when the run goes on from there. */
export class RunLog {
  constructor(readonly path: string) {}

  async add(record: LogRecord): Promise<void> {
    try {
      await appendFile(this.path, `${JSON.stringify(record)}\n`);
    } catch (error) {
      throw failure(this.path, 'written', error);
    }
  }

  /** All records. A line that a kill has cut short is left out. */
  async read(): Promise<LogRecord[]> {
    if ((await kindOf(this.path)) === undefined) return [];
    let text: string;
    try {
      text = await readFile(this.path, 'utf8');
    } catch (error) {
      throw failure(this.path, 'read', error);
    }
    return text.split('\n').slice(0, -1).flatMap((line) => parse(line));
  }

  /** Takes back what was written after `step` steps. */
  async rewind(step: number): Promise<void> {
    const records = (await this.read()).filter((record) => record.step <= step && record.kind !== 'end');
    await writeWhole(this.path, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  }
}

function parse(line: string): LogRecord[] {
  try {
    return [JSON.parse(line) as LogRecord];
  } catch {
    return [];
  }
}
