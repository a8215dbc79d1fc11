import type { Device } from '../../lib/ops.js';
import type { Summary } from '../summary.js';

export interface Settings {
  device: Device;
  /** Samples per figure. */
  repeats: number;
  /** Run the peers beside. */
  peer: boolean;
}

/** One row of a result: what was measured, in which unit, and the peer beside it. */
export interface Result {
  work: string;
  unit: string;
  spkv: Summary;
  peer?: { name: string; value: Summary };
  /** spkv over peer, so that more is better. */
  ratio?: number;
  /** The ratio to reach, as stated before measuring. */
  target?: number;
  notes?: Record<string, unknown>;
}

export type Suite = (settings: Settings) => Promise<Result[]>;
