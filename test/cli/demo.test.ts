import type { GenerationResult } from '../../lib/index.js';
import type { Note, Trial } from '../../lib/cli/recall.js';
import { jsonLines, spkv } from '../support/cli.js';

interface Report {
  pruned: GenerationResult;
  dense: GenerationResult;
  notes: Note[];
  trials: Trial[];
}

// What holds for the bundled model whatever its weights, if they were trained well.
test('--json has all figures, and they tell the story', async () => {
  const result = await spkv(['demo', '--json', '--max-tokens', '20']);
  expect({ code: result.code, stderr: result.stderr }).toEqual({ code: 0, stderr: '' });
  const [{ pruned, dense, notes, trials }] = jsonLines<Report>(result) as [Report];
  expect(pruned.usage).toMatchObject({ promptTokens: dense.usage.promptTokens, completionTokens: 20 });
  expect(pruned.cache.bytes).toBeLessThan(0.9 * dense.cache.bytes);
  expect(trials.map(({ threshold }) => threshold)).toEqual([0, 0.3, 0.5, 0.7, 1.01]);
  const [full, , half, , none] = trials as [Trial, Trial, Trial, Trial, Trial];
  const densities = trials.map(({ cache }) => cache.density);
  expect(densities).toEqual(densities.toSorted((a, b) => b - a));
  // Dropping much costs little beside what dropping all costs.
  expect(none.loss / full.loss).toBeGreaterThan(1.1);
  expect(half.loss - full.loss).toBeLessThan(0.2 * (none.loss - full.loss));
  const known = ({ recalled }: Trial) => notes.filter(({ value }, i) => value === recalled[i]).length;
  expect(known(half)).toBeGreaterThan(notes.length / 2);
  expect(known(none)).toBe(0);
});
