import { jest } from '@jest/globals';
import fc from 'fast-check';
import { StreamDecoder } from '../../lib/text/stream-decoder.js';
import { loadTokenizer, Tokenizer } from '../../lib/text/tokenizer.js';
import { Utf8Stream } from '../../lib/text/utf8.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';
import { byteLevel, endOfWord, makeTokenizer, sentencePiece, unigram, wordPiece, words } from '../support/tokenizers.js';

const root = temporaryDirectory();
const make = (json: unknown) => makeTokenizer(root, json);

/** The piece of every token and, last, what flush gives. */
function pieces(tokenizer: Tokenizer, ids: readonly number[]): string[] {
  const decoder = new StreamDecoder(tokenizer);
  return [...ids.map((id) => decoder.push(id)), decoder.flush()];
}

function expectExact(tokenizer: Tokenizer, ids: readonly number[]): void {
  const parts = pieces(tokenizer, ids);
  expect(parts.join('')).toBe(tokenizer.decode(ids));
  expect(parts.find((part) => /\p{Surrogate}/u.test(part))).toBeUndefined(); // no half of a character
}

/** Random ids, half of them from the whole vocabulary and a little past it, half from `often`. */
function someIds(tokenizer: Tokenizer, often: readonly string[], maxLength = 40): fc.Arbitrary<number[]> {
  const known = often.map((token) => tokenizer.tokenId(token)!);
  for (const [index, id] of known.entries()) if (id === undefined) throw new Error(`no token ${often[index]}`);
  return fc.array(fc.oneof(fc.nat(tokenizer.vocabSize + 1), fc.constantFrom(...known)), { maxLength, size: 'max' });
}

const sequence = (...decoders: unknown[]) => sentencePiece({ decoder: { type: 'Sequence', decoders } });
const space = { type: 'Replace', pattern: { String: '▁' }, content: ' ' };
const BYTES = ['<0xE2>', '<0x82>', '<0xAC>', '<0xF0>', '<0x9F>', '<0x98>', '<0x80>', '<0xEF>', '<0xBB>', '<0xBF>', '<0x41>'];
const PIECES = ['▁', '▁▁', '▁the', 'on', '<s>', 'é', ...BYTES];

const KINDS: [string, unknown, string[]][] = [
  ['byte-level', byteLevel(), ['â', 'âĤ', '¬', 'ð', 'Ł', 'ĺ', 'Ģ', 'ï', '»', '¿', 'fÃ', '©', 'hello', 'Ġthe', '<|end|>', '<｜think｜>']],
  ['sentencepiece', sentencePiece(), PIECES],
  ['unigram', unigram(), ['▁', '▁the', 'cat', '<unk>']],
  ['without a decoder', words(), ['the', 'cat']],
  ['bytes before replacing', sequence({ type: 'ByteFallback' }, space, { type: 'Fuse' }, { type: 'Strip', content: ' ', start: 2, stop: 0 }), PIECES],
  ['fused before replacing', sequence({ type: 'Fuse' }, space, { type: 'Strip', content: ' ', start: 1, stop: 0 }), PIECES],
  ['without fusing', sequence(space, { type: 'Strip', content: ' ', start: 1, stop: 1 }, { type: 'ByteFallback' }), PIECES],
  ['metaspace after bytes', sequence({ type: 'ByteFallback' }, { type: 'Metaspace', replacement: '▁' }), PIECES],
  ['metaspace after fusing', sequence({ type: 'Sequence', decoders: [{ type: 'ByteFallback' }, { type: 'Fuse' }] }, { type: 'Metaspace' }), PIECES],
  ['a regular expression', sequence({ type: 'Replace', pattern: { Regex: '[▁e]+' }, content: '-' }, { type: 'ByteFallback' }, { type: 'Fuse' }), PIECES],
  ['an empty sequence', sequence(), PIECES],
  // Not token by token:
  ['a long pattern after fusing', sequence({ type: 'Fuse' }, { type: 'Replace', pattern: { String: 'on▁the' }, content: '!' }), PIECES],
  ['stripping the end', sequence(space, { type: 'ByteFallback' }, { type: 'Fuse' }, { type: 'Strip', content: ' ', start: 0, stop: 2 }), PIECES],
  ['bytes after fusing', sequence({ type: 'Fuse' }, { type: 'ByteFallback' }), PIECES],
  ['byte-level in a sequence', byteLevel({ decoder: { type: 'Sequence', decoders: [{ type: 'ByteLevel' }, { type: 'Fuse' }] } }), ['â', 'Ĥ', '¬']],
  ['word pieces', wordPiece(), ['the', '##s', '.', "n't"]],
  ['ends of words', endOfWord(), ['ca', 'cat</w>', 'a</w>']],
  ['ends of words, fused', endOfWord({ decoder: { type: 'Fuse' } }), ['ca', 'cat</w>', 'a</w>']],
];

describe.each(KINDS)('%s', (_, json, often) => {
  test('the pieces make the text of all tokens', async () => {
    const tokenizer = await make(json);
    fc.assert(fc.property(someIds(tokenizer, often), (ids) => expectExact(tokenizer, ids)), { numRuns: 200 });
    fc.assert(fc.property(someIds(tokenizer, often, 600), (ids) => expectExact(tokenizer, ids)), { numRuns: 10 });
  });
});

test('bytes as tokens', async () => {
  const tokenizer = (await loadTokenizer(MODEL_DIR))!;
  fc.assert(fc.property(someIds(tokenizer, ['â', 'Ĥ', '¬', 'ð', 'Ł', 'ĺ', 'Ģ']), (ids) => expectExact(tokenizer, ids)));
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (text) => {
      expect(pieces(tokenizer, tokenizer.encode(text)).join('')).toBe(text);
    }),
  );
});

test('a character over several tokens comes out whole, the rest at once', async () => {
  const bytes = (await loadTokenizer(MODEL_DIR))!;
  expect(pieces(bytes, bytes.encode('aé😀'))).toEqual(['', 'a', '', 'é', '', '', '', '😀', '']);
  const merged = await make(byteLevel());
  expect(pieces(merged, merged.encode('fé€'))).toEqual(['f', 'é', '', '€', '']);
  const pieced = await make(sentencePiece());
  expect(pieces(pieced, pieced.encode('the one €'))).toEqual(['', 'the', ' one', ' ', '', '', '€', '']);
});

test('a special token does not end a character', async () => {
  const tokenizer = await make(byteLevel());
  const [begin, end] = [0xc3, 0xa9];
  expect(pieces(tokenizer, [begin, tokenizer.tokenId('<|end|>')!, end])).toEqual(['', '', 'é', '']);
  expect(pieces(tokenizer, [begin, tokenizer.tokenId('<｜think｜>')!, end])).toEqual(['', '\ufffd<｜think｜>', '\ufffd', '']);
});

test('invalid bytes come out as soon as they are certain', async () => {
  const tokenizer = (await loadTokenizer(MODEL_DIR))!;
  expect(pieces(tokenizer, [0x80, 0xff, 0xc3, 0x41])).toEqual(['\ufffd', '\ufffd', '', '\ufffdA', '']);
  expect(pieces(tokenizer, [0xf0, 0x9f, 0x98])).toEqual(['', '', '', '\ufffd']);
  expect(pieces(tokenizer, [0xc0, 0xf5])).toEqual(['\ufffd', '\ufffd', '']);
  expect(pieces(tokenizer, [0xed, 0xa0])).toEqual(['', '\ufffd\ufffd', '']);
});

test.each(KINDS.filter(([, , often]) => often === PIECES))('%s: byte order marks', async (_, json) => {
  const tokenizer = await make(json);
  const id = (token: string) => tokenizer.tokenId(token)!;
  const mark = ['<0xEF>', '<0xBB>', '<0xBF>'].map(id);
  for (const tokens of [['<0x20>', '<0x41>'], ['▁', '▁'], ['<0xEF>', '<0xBB>', '<0xBF>', 'on']]) {
    for (const first of [[], [id('on')], [id('<0x20>')]]) expectExact(tokenizer, [...first, ...mark, ...tokens.map(id)]);
  }
});

test('only the first token loses the space before it, and a new text begins after flush', async () => {
  const tokenizer = await make(sentencePiece());
  const ids = tokenizer.encode('the the', { addSpecialTokens: false });
  const decoder = new StreamDecoder(tokenizer);
  for (let turn = 0; turn < 2; turn++) {
    expect(ids.map((id) => decoder.push(id))).toEqual(['the', ' the']);
    expect(decoder.flush()).toBe('');
  }
});

test('a long text of any kind is decoded again so seldom that the whole takes linear time', async () => {
  const kinds: [unknown, number][] = [[byteLevel(), 0x61], [sentencePiece(), 265], [wordPiece(), 2]];
  for (const [json, id] of kinds) {
    const tokenizer = await make(json);
    let decoded = 0;
    const { decode } = Tokenizer.prototype;
    const counting = jest.spyOn(tokenizer, 'decode').mockImplementation((all) => {
      decoded += all.length;
      return decode.call(tokenizer, all);
    });
    const ids = Array.from({ length: 30_000 }, () => id);
    expect(pieces(tokenizer, ids).join('').length).toBeGreaterThanOrEqual(30_000);
    expect(decoded).toBeLessThan(20 * ids.length);
    counting.mockRestore();
  }
});

describe('Utf8Stream', () => {
  const interesting = fc.constantFrom(0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xee, 0xef, 0xbb, 0xf0, 0xf1, 0xf4, 0xf5, 0xff);
  const byteLists = fc.array(fc.array(fc.oneof(interesting, fc.nat(255)), { maxLength: 6 }), { maxLength: 8 });

  test.each([true, false])('is the same as TextDecoder on the whole (dropBom %s)', (dropBom) => {
    fc.assert(
      fc.property(byteLists, (parts) => {
        const stream = new Utf8Stream({ dropBom });
        const text = [...parts.map((part) => stream.push(part)), stream.flush()].join('');
        expect(text).toBe(new TextDecoder('utf-8', { ignoreBOM: !dropBom }).decode(Uint8Array.from(parts.flat())));
      }),
      { numRuns: 3000 },
    );
  });

  test('holds back at most three bytes, and only those of a character that can become complete', () => {
    fc.assert(
      fc.property(byteLists, (parts) => {
        const stream = new Utf8Stream();
        const given = parts.map((part) => stream.push(part)).join('');
        const held = stream.flush();
        expect(['', '\ufffd']).toContain(held);
        const all = parts.flat();
        const complete = [0, 1, 2, 3].filter((count) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(all.slice(0, all.length - count))) === given);
        expect(complete.length).toBeGreaterThan(0);
      }),
      { numRuns: 2000 },
    );
  });
});
