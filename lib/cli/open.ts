import { loadModel, type TextModel } from '../index.js';
import { type ModelFlags, modelOptions, type OutputFlags } from './options.js';
import type { Progress } from './progress.js';

/** Loads the model that the options name, with a progress bar and with warnings on stderr. */
export async function openModel(flags: ModelFlags & OutputFlags, progress: Progress, signal?: AbortSignal): Promise<TextModel> {
  try {
    return await loadModel(flags.model, {
      ...modelOptions(flags),
      ...(signal ? { signal } : {}),
      onProgress: (share) => progress.update('Loading', share, 1),
      onWarning: warner(flags, progress),
    });
  } finally {
    progress.stop();
  }
}

/** Shows warnings of the library on stderr, unless they are not wanted. */
export function warner({ quiet }: OutputFlags, progress: Progress): (message: string) => void {
  return (message) => {
    progress.stop();
    if (!quiet) process.stderr.write(`spkv: warning: ${message}\n`);
  };
}

/** Writes to stdout, no faster than its reader takes it. */
export async function print(text: string): Promise<void> {
  if (!process.stdout.write(text)) await new Promise((resolve) => process.stdout.once('drain', resolve));
}

export function printJson(value: unknown): Promise<void> {
  return print(`${JSON.stringify(value)}\n`);
}
