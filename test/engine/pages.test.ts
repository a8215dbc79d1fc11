import type { Choice } from '../../lib/engine/choice.js';
import { Pages } from '../../lib/engine/pages.js';
import type { KvCache, Sequence } from '../../lib/ops.js';

const WINDOW = 128;

/** A cache that takes a page per token, and notes how many sequences it was asked about at a time. */
function cacheAndQuestions() {
  const questions: number[] = [];
  const forecast = async (sequences: readonly Sequence[], tokens: number) => {
    questions.push(sequences.length);
    return sequences.map(() => Int32Array.from({ length: tokens }, (_, i) => i + 1));
  };
  return { cache: { layers: 1, kvHeads: 1, window: WINDOW, forecast } as unknown as KvCache, questions };
}

/** As much of a choice as the pages look at. */
const choice = (read: number, unread = 0) => ({ read, unread, forecast: undefined, sequence: {} }) as unknown as Choice & { read: number; unread: number };
const known = ({ forecast, read }: Choice) => forecast!.pages.length - (read - forecast!.length);

test('texts that began one after the other are soon asked about together, and never too late', async () => {
  const { cache, questions } = cacheAndQuestions();
  const pages = new Pages(cache);
  const texts: ReturnType<typeof choice>[] = [];
  const steps = 10 * WINDOW;
  for (let step = 0; step < steps; step++) {
    if (texts.length < 64) texts.push(choice(7 * step));
    await pages.forecast(texts, () => 1);
    expect(Math.min(...texts.map(known))).toBeGreaterThanOrEqual(WINDOW / 2);
    expect(texts.reduce((sum, text) => sum + pages.need(text, 1), 0)).toBe(texts.length);
    for (const text of texts) text.read++;
    if (step === 64) questions.length = 0;
  }
  // Each reaches for a window at most, and is asked about again when less than three quarters of it are left.
  expect(questions.length).toBeLessThanOrEqual((3 * steps) / (WINDOW / 2));
});

test('a prompt is asked about by itself, as far as its next piece reaches', async () => {
  const { cache, questions } = cacheAndQuestions();
  const pages = new Pages(cache);
  const [reading, writing] = [choice(0, 1000), choice(50)];
  await pages.forecast([reading, writing], ({ unread }) => (unread > 0 ? 512 : 1));
  expect(questions).toEqual([1, 1]);
  expect([known(reading), known(writing)]).toEqual([512, WINDOW]);
  expect(pages.need(reading, 512)).toBe(512);
  reading.read += 500;
  expect(pages.need(reading, 12)).toBe(12);
  await pages.forecast([reading, writing], ({ unread }) => (unread > 0 ? 12 : 1));
  expect(questions).toHaveLength(2);
});
