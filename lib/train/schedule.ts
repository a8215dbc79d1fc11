/** The numbers that the schedule of a run follows from; see TrainOptions. */
export interface ScheduleOptions {
  /** Optimiser steps of the whole run. */
  steps: number;
  learningRate: number;
  warmupSteps: number;
  decay: 'cosine' | 'constant';
  /** What the learning rate falls to, as a share of its peak. */
  learningRateFloor: number;
  /** No gates at all. */
  dense: boolean;
  /** The share of the steps with soft gates. */
  softShare: number;
  /** The most steps in which soft gates become hard ones. */
  annealSteps: number;
}

/** What one step does. */
export interface StepPlan {
  learningRate: number;
  /** dense: no gates; soft: log utilities; annealed: on the way to hard gates, predictor frozen. */
  mode: 'dense' | 'soft' | 'annealed';
  /** 0: soft gates, 1: hard ones. */
  alpha: number;
  /** Whether the predictors learn. */
  trainPredictor: boolean;
}

/** The first step after the soft ones. */
export function softSteps({ steps, softShare, dense }: ScheduleOptions): number {
  return dense ? 0 : Math.floor(steps * softShare);
}

/** The plan of step `step`, counted from 0. */
export function planStep(step: number, options: ScheduleOptions): StepPlan {
  const learningRate = learningRateAt(step, options);
  if (options.dense) return { learningRate, mode: 'dense', alpha: 0, trainPredictor: false };
  const soft = softSteps(options);
  if (step < soft) return { learningRate, mode: 'soft', alpha: 0, trainPredictor: true };
  const ramp = Math.max(1, Math.min(options.annealSteps, Math.floor((options.steps - soft) / 2)));
  return { learningRate, mode: 'annealed', alpha: Math.min(1, (step - soft) / ramp), trainPredictor: false };
}

/** Rises in a straight line, then falls along half a cosine to the floor. */
function learningRateAt(step: number, { steps, learningRate, warmupSteps, decay, learningRateFloor }: ScheduleOptions): number {
  if (step < warmupSteps) return (learningRate * (step + 1)) / warmupSteps;
  if (decay === 'constant') return learningRate;
  const share = (step - warmupSteps) / Math.max(1, steps - warmupSteps);
  return learningRate * (learningRateFloor + (1 - learningRateFloor) * 0.5 * (1 + Math.cos(Math.PI * share)));
}
