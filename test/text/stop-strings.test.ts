import fc from 'fast-check';
import { StopStrings } from '../../lib/text/stop-strings.js';
import { expectError } from '../support/errors.js';

/** What comes of `pieces`: the text let through by every push and, last, by flush. */
function run(stops: readonly string[], pieces: readonly string[]) {
  const filter = new StopStrings(stops);
  const given = pieces.map((piece) => filter.push(piece));
  given.push(filter.flush());
  return { given, text: given.join(''), stopped: filter.stopped, matched: filter.matched };
}

/** What should come of the whole text. */
function expected(stops: readonly string[], text: string) {
  const found = stops.map((stop) => ({ stop, at: text.indexOf(stop) })).filter(({ at }) => at >= 0);
  const first = found.sort((a, b) => a.at - b.at || a.stop.length - b.stop.length)[0];
  return { text: first ? text.slice(0, first.at) : text, stopped: first !== undefined, matched: first?.stop };
}

test('lets text through at once where nothing could be a stop string', () => {
  expect(run([], ['a', 'b']).given).toEqual(['a', 'b', '']);
  expect(run(['END'], ['abc', ' E', 'x', 'EN']).given).toEqual(['abc', ' ', 'Ex', '', 'EN']);
});

test('ends before the stop string, wherever it is cut', () => {
  expect(run(['END'], ['abE', 'N', 'D', 'more'])).toMatchObject({ given: ['ab', '', '', '', ''], stopped: true, matched: 'END' });
  expect(run(['END'], ['abENDmore'])).toMatchObject({ given: ['ab', ''], matched: 'END' });
  expect(run(['\n\n'], ['a\n', 'b\n', '\nc'])).toMatchObject({ given: ['a', '\nb', '', ''], matched: '\n\n' });
});

test('a beginning that repeats', () => {
  expect(run(['aab'], ['aaaab'])).toMatchObject({ text: 'aa', matched: 'aab' });
  expect(run(['aab'], ['a', 'a', 'a', 'a', 'b'])).toMatchObject({ given: ['', '', 'a', 'a', '', ''], matched: 'aab' });
});

test('the match that starts first wins, even if another is complete before it', () => {
  expect(run(['c', 'abcd'], ['abc', 'd'])).toMatchObject({ text: '', matched: 'abcd' });
  expect(run(['c', 'abcd'], ['abc', 'e'])).toMatchObject({ text: 'ab', matched: 'c' });
  expect(run(['c', 'abcd'], ['xabc'])).toMatchObject({ given: ['x', 'ab'], stopped: true, matched: 'c' });
  expect(run(['abc', 'ab'], ['abc'])).toMatchObject({ text: '', matched: 'ab' });
});

test('nothing comes after a match', () => {
  const filter = new StopStrings(['.']);
  expect(filter.stopped).toBe(false);
  expect(filter.matched).toBeUndefined();
  expect(filter.push('a.b')).toBe('a');
  expect(filter.stopped).toBe(true);
  expect(filter.push('c')).toBe('');
  expect(filter.flush()).toBe('');
});

test('is the same as a search in the whole text, and holds back no more than it must', () => {
  const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(fc.array(word, { maxLength: 4 }), fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 6 }), { maxLength: 12 }), (stops, pieces) => {
      const { given, ...outcome } = run(stops, pieces);
      expect(outcome).toEqual(expected(stops, pieces.join('')));
      if (outcome.stopped) return;
      // Before every piece, what is held back is exactly the longest end that begins some stop string.
      let text = '';
      for (const [index, piece] of pieces.entries()) {
        text += piece;
        const through = given.slice(0, index + 1).join('');
        const end = Array.from(text, (_, at) => text.slice(at)).find((rest) => stops.some((stop) => stop.startsWith(rest)));
        expect(text.slice(through.length)).toBe(end ?? '');
      }
    }),
    { numRuns: 3000 },
  );
});

test('refuses what is not a list of non-empty strings', async () => {
  await expectError(() => new StopStrings('a' as never), 'INVALID_ARGUMENT', /an array of strings/);
  await expectError(() => new StopStrings(['a', '']), 'INVALID_ARGUMENT', /a non-empty string/);
  await expectError(() => new StopStrings([5 as never]), 'INVALID_ARGUMENT', /received 5/);
});
