import { type Evaluation, reportCache, type Sequence, type TextModel } from '../index.js';

/** A line such as `# note cedar-418 = 730519` in a text. The bundled model has learned to give such numbers back. */
export interface Note {
  name: string;
  value: string;
}

/** One reading of a text at one threshold. */
export interface Trial extends Evaluation {
  /** What the model says the values of the notes are, asked at the end of the text. */
  recalled: string[];
}

export function findNotes(text: string): Note[] {
  return [...text.matchAll(/^# note (\S+) = (\d+)$/gm)].map(([, name, value]) => ({ name: name!, value: value! }));
}

/**
 * Reads a text through the cache at one threshold: how well is it predicted, what is held, and are its notes,
 * long out of the window by then, still known?
 */
export async function trial(
  model: TextModel, text: string, notes: readonly Note[], threshold: number, signal?: AbortSignal,
): Promise<Trial> {
  const ids = model.encode(text);
  const sequence = await model.createSequence({ threshold });
  try {
    const start = performance.now();
    const scores = await model.score(sequence, ids, signal ? { signal } : {});
    const seconds = (performance.now() - start) / 1000;
    const loss = -scores.reduce((sum, score) => sum + score, 0) / (ids.length - 1);
    const cache = await reportCache(sequence);
    return { threshold, loss, tokens: ids.length, seconds, cache, recalled: await recall(model, sequence, notes, signal) };
  } finally {
    await sequence.dispose();
  }
}

/** Asks for one note after the other; the questions and answers become part of the sequence. */
async function recall(model: TextModel, sequence: Sequence, notes: readonly Note[], signal?: AbortSignal): Promise<string[]> {
  const answers: string[] = [];
  let unread: number[] = []; // the last token of an answer, which no step has read yet
  for (const { name, value } of notes) {
    const question = [...unread, ...model.tokenizer!.encode(`\n# recall ${name} = `, { addSpecialTokens: false })];
    await model.prefill(sequence, question.slice(0, -1), signal ? { signal } : {});
    using decoder = model.createDecoder([{ sequence, next: question.at(-1)! }]);
    const ids: number[] = [];
    while (ids.length < value.length) ids.push((await decoder.step())[0]!);
    answers.push(model.decode(ids));
    unread = ids.slice(-1);
  }
  return answers;
}
