import fc from 'fast-check';
import { compile } from '../../lib/constrain/compile.js';
import { Constraint } from '../../lib/constrain/constraint.js';
import { Masks } from '../../lib/constrain/masks.js';
import { readVocabulary, spell } from '../../lib/constrain/vocabulary.js';
import { StreamDecoder } from '../../lib/text/stream-decoder.js';
import type { Tokenizer } from '../../lib/text/tokenizer.js';
import { idsOf } from '../support/constraints.js';
import { random } from '../support/device.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { seeds } from '../support/operands.js';
import { byteLevel, endOfWord, makeTokenizer, sentencePiece, unigram, wordPiece, words } from '../support/tokenizers.js';

const root = temporaryDirectory();

/** A random text of at most 40 tokens, as whoever reads it sees it. */
function writeText(tokenizer: Tokenizer, regex: string, seed: number, size = tokenizer.vocabSize): { text: string; complete: boolean } {
  const none = new Set<number>();
  const constraint = new Constraint(new Masks(compile({ regex }), readVocabulary(tokenizer, size, none), none, 1 << 20), tokenizer, none);
  const [progress, stream, uniform] = [constraint.begin(), new StreamDecoder(tokenizer), random(seed)];
  let text = '';
  for (let i = 0; i < 40 && !progress.complete; i++) {
    const allowed = idsOf(progress.allowed()!, size);
    const id = allowed[Math.floor(uniform() * allowed.length)]!;
    progress.accept(id);
    text += stream.push(id);
  }
  return { text: text + stream.flush(), complete: progress.complete };
}

test.each<[string, object, string[]]>([
  ['bytes', byteLevel(), [' the [a-z€é]{3}!', '[^a]{4}x', '\\s{2}hello', '€{3}']],
  ['sentencepiece', sentencePiece(), ['[a-z]{2} the one', 'the.[^ ]{3}', 'é{3}', '[€é]x', 'x  y', '\\{"on": \\d{2}\\}']],
  ['unigram', unigram(), ['the cats?', 'cat(s|é){2}', 'é']],
])('texts of tokens of the kind %s are what the constraint describes', async (_, json, regexes) => {
  const tokenizer = await makeTokenizer(root, json);
  for (const regex of regexes) {
    const expected = new RegExp(`^(?:${regex})$`, 'u');
    const property = fc.property(seeds, (seed) => {
      const { text, complete } = writeText(tokenizer, regex, seed);
      expect(complete).toBe(true);
      expect(text).toMatch(expected);
    });
    fc.assert(property, { numRuns: 15 });
  }
});

test('where the vocabulary cannot go on it says so', async () => {
  const tokenizer = await makeTokenizer(root, unigram());
  await expectError(() => writeText(tokenizer, 'cat!', 1), 'UNSUPPORTED', 'no token with which the text could go on');
  await expectError(() => writeText(tokenizer, ' the', 1), 'UNSUPPORTED', 'no token'); // a space at the beginning is left out
});

test('tokens past those of the tokenizer, and silent ones, are never allowed', async () => {
  const tokenizer = await makeTokenizer(root, byteLevel());
  const vocabulary = readVocabulary(tokenizer, 400, new Set([97]));
  const masks = new Masks(compile({ regex: '.*' }), vocabulary, [97, 500], 1 << 20);
  const allowed = idsOf(masks.allowed(masks.start, true), 400);
  expect(allowed).toContain(97); // the end
  expect(allowed).toContain(98);
  expect(allowed.filter((id) => id >= tokenizer.vocabSize)).toEqual([]);
  expect(allowed).not.toContain(tokenizer.tokenId('<|begin|>'));
  expect(masks.next(masks.start, 399, false)).toBeUndefined();
  expect(masks.next(masks.start, 1e6, false)).toBeUndefined();
});

test('tokenizers whose tokens are no text by themselves are refused', async () => {
  for (const json of [endOfWord(), wordPiece()]) {
    const tokenizer = await makeTokenizer(root, json);
    await expectError(() => readVocabulary(tokenizer, 20, new Set()), 'UNSUPPORTED', 'tokens that are text by themselves');
  }
});

test('words without a decoder have spaces between them', async () => {
  const { text } = writeText(await makeTokenizer(root, words()), 'the( cat| sat){3}', 4);
  expect(text).toMatch(/^the( cat| sat){3}$/);
});

test('the tree of tokens has every token below its bytes', () => {
  const property = fc.property(fc.array(fc.option(fc.uint8Array({ maxLength: 4, max: 3 }), { nil: undefined }), { maxLength: 40 }), (tokens) => {
    const { tree } = spell(tokens, tokens.length);
    const path: number[] = [];
    const found: string[] = [];
    for (let node = 0; node < tree.byte.length; node++) {
      path.length = tree.depth[node]!;
      if (node > 0) path[path.length - 1] = tree.byte[node]!;
      for (let i = tree.tokenStarts[node]!; i < tree.tokenStarts[node + 1]!; i++) found.push(`${tree.tokens[i]!}: ${path.join()}`);
      const below = Array.from({ length: tree.end[node]! - node - 1 }, (_, i) => tree.depth[node + 1 + i]!);
      expect(below.every((depth) => depth > tree.depth[node]!)).toBe(true);
      expect(tree.depth[tree.end[node]!] ?? 0).toBeLessThanOrEqual(tree.depth[node]!);
    }
    expect(found.sort()).toEqual(tokens.flatMap((token, id) => (token?.length ? [`${id}: ${token.join()}`] : [])).sort());
  });
  fc.assert(property, { numRuns: 100 });
});
