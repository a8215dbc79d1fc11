import fc from 'fast-check';
import { keepPlaces } from '../../lib/engine/batch.js';
import type { Choice } from '../../lib/engine/choice.js';
import { tokenLogprobs } from '../../lib/engine/logprobs.js';
import { normals, random } from '../support/device.js';
import { seeds } from '../support/operands.js';

const choices = Array.from({ length: 10 }, (_, i) => ({ index: i }) as Choice);

test('texts keep their places, and where one has gone, another fills the gap', () => {
  const some = fc.subarray(choices);
  fc.assert(
    fc.property(some, some, (before, now) => {
      const rows = keepPlaces(before, now);
      expect(new Set(rows)).toEqual(new Set(now));
      expect(rows).toHaveLength(now.length);
      // Only as many move as there are gaps.
      const moved = rows.filter((choice, row) => before.includes(choice) && before[row] !== choice);
      expect(moved.length).toBeLessThanOrEqual(before.filter((choice) => !now.includes(choice)).length);
    }),
  );
});

test('log-probabilities and the likeliest tokens, as sorting gives them', () => {
  fc.assert(
    fc.property(seeds, fc.integer({ min: 1, max: 40 }), fc.nat(45), (seed, size, wanted) => {
      const logits = normals(size, random(seed), 5).map((logit) => Math.round(logit)); // with ties
      const count = Math.min(wanted, size);
      const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
      const { logprob, top } = tokenLogprobs(logits, size - 1, count);
      expect(logprob).toBeCloseTo(logits[size - 1]! - total, 9);
      const sorted = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b).slice(0, count);
      expect(top.map(({ id }) => id)).toEqual(sorted);
      for (const { id, logprob: value } of top) expect(value).toBeCloseTo(logits[id]! - total, 9);
    }),
  );
});
