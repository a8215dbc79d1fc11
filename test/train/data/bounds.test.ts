import { documentBounds } from '../../../lib/train/data/bounds.js';

const tokenizer = (added: number[], bosTokenId?: number, eosTokenId?: number) => ({ encode: () => added, bosTokenId, eosTokenId });

test.each<[name: string, ...Parameters<typeof documentBounds>, start: number[], end: number[]]>([
  ['a beginning and an end', tokenizer([1], 1, 2), [2], [1], [2]],
  ['both added by the tokenizer', tokenizer([1, 2], 1, 2), [2], [1], [2]],
  ['one token for both', tokenizer([0], 0, 0), [0], [0], []],
  ['no beginning', tokenizer([], undefined, 9), [9], [], [9]],
  ['only an end that the tokenizer adds', tokenizer([9], undefined, 9), [9], [], [9]],
  ['an end that only the config knows', tokenizer([1], 1), [7, 8], [1], [7]],
  ['neither', tokenizer([]), [], [], []],
  ['no tokenizer', undefined, [2], [], [2]],
])('%s', (_, given, eosTokenIds, documentStart, documentEnd) => {
  expect(documentBounds(given, eosTokenIds)).toEqual({ documentStart, documentEnd });
});
