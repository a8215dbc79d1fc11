import { type Evaluation, reportCache, type TextModel } from '../index.js';

/** A line such as `# note cedar-418 = 730519` in a text, which the bundled model has learned to give back. */
export interface Note {
  name: string;
  value: string;
}

/** One reading of a text at one threshold. */
export interface Trial extends Evaluation {
  /** What the model gave for the value of the note; undefined where there is none. */
  recalled: string | undefined;
}

/** The first note of a text. */
export function findNote(text: string): Note | undefined {
  const match = /^# note (\S+) = (\d+)$/m.exec(text);
  return match ? { name: match[1]!, value: match[2]! } : undefined;
}

/**
 * Reads a text through the cache at one threshold: how well is it predicted, what is held, and is the note, by
 * then long out of the window, still known?
 */
export async function trial(
  model: TextModel, text: string, note: Note | undefined, threshold: number, signal?: AbortSignal,
): Promise<Trial> {
  const ids = model.encode(text);
  const options = signal ? { signal } : {};
  const sequence = await model.createSequence({ threshold });
  try {
    const start = performance.now();
    const scores = await model.score(sequence, ids, options);
    const seconds = (performance.now() - start) / 1000;
    const loss = -scores.reduce((sum, score) => sum + score, 0) / (ids.length - 1);
    const cache = await reportCache(sequence);
    let recalled: string | undefined;
    if (note) {
      const question = model.encode(`\n# recall ${note.name} = `);
      await model.prefill(sequence, question.slice(0, -1), options);
      using decoder = model.createDecoder([{ sequence, next: question.at(-1)! }]);
      const answer: number[] = [];
      while (answer.length < note.value.length) answer.push((await decoder.step())[0]!);
      recalled = model.decode(answer);
    }
    return { threshold, loss, tokens: ids.length, seconds, cache, recalled };
  } finally {
    await sequence.dispose();
  }
}
