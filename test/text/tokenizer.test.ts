import { jest } from '@jest/globals';
import fc from 'fast-check';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BUNDLED_MODEL } from '../../lib/bundled.js';
import { SpkvError } from '../../lib/errors.js';
import { loadTokenizer } from '../../lib/text/tokenizer.js';
import { expectError } from '../support/errors.js';
import { damage, temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';
import { added, BYTE_CHARACTERS, byteLevel, endOfWord, makeTokenizer, sentencePiece, unigram, wordPiece, words, writeDirectory } from '../support/tokenizers.js';

const root = temporaryDirectory();
const make = (json: unknown, config?: unknown) => makeTokenizer(root, json, config);

test.each([['golden', MODEL_DIR], ['bundled', BUNDLED_MODEL]])('the %s model has the bytes of the text as tokens, after one for its beginning', async (_, dir) => {
  const tokenizer = (await loadTokenizer(dir))!;
  expect(tokenizer).toMatchObject({ vocabSize: 320, bosTokenId: 0, eosTokenId: 0 });
  expect(tokenizer.encode('dé\n')).toEqual([0, 0x64, 0xc3, 0xa9, 0x0a]);
  expect(tokenizer.encode('dé\n', { addSpecialTokens: false })).toEqual([0x64, 0xc3, 0xa9, 0x0a]);
  expect(tokenizer.encode('')).toEqual([0]);
  expect(tokenizer.encode('', { addSpecialTokens: false })).toEqual([]);
  expect(tokenizer.decode([0, 0x64, 0xc3, 0xa9, 0x0a])).toBe('dé\n');
});

test('text comes back from a byte-level tokenizer', async () => {
  const golden = (await loadTokenizer(MODEL_DIR))!;
  const merged = await make(byteLevel());
  const text = fc.string({ unit: 'binary' }).filter((value) => !/[\0\p{Surrogate}]/u.test(value));
  fc.assert(
    fc.property(fc.oneof(text, fc.constantFrom('hello the  end', "it's €5, café")), (value) => {
      for (const tokenizer of [golden, merged]) expect(tokenizer.decode(tokenizer.encode(value))).toBe(value);
    }),
  );
});

test('text that is nothing but its bytes is encoded as the general way does it', async () => {
  const plain = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  const vocab = Object.fromEntries(BYTE_CHARACTERS.map((char, byte) => [char, 255 - byte]));
  const json = { added_tokens: [], pre_tokenizer: plain, model: { type: 'BPE', vocab, merges: [], unk_token: null } };
  const fast = await make(byteLevel(json));
  // A token that no text contains takes the general way.
  const general = await make(byteLevel({ ...json, added_tokens: [added(256, '<|never|>')] }));
  fc.assert(fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.string({ unit: 'grapheme' }), fc.constantFrom('', '  a\r\n\tĀ', '\uD800x')), (text) => {
    for (const addSpecialTokens of [false, true]) expect(fast.encode(text, { addSpecialTokens })).toEqual(general.encode(text, { addSpecialTokens }));
  }));
  expect(fast.encode('aé')).toEqual([255 - 0x61, 255 - 0xc3, 255 - 0xa9]);
});

test('merges', async () => {
  const tokenizer = await make(byteLevel());
  const written = (text: string) => tokenizer.encode(text).map((id) => tokenizer.token(id));
  expect(written('hello the then')).toEqual(['hello', 'Ġthe', 'Ġthe', 'n']);
  expect(written('fé€')).toEqual(['fÃ', '©', 'âĤ', '¬']);
});

test('special tokens are read in text and left out when it is decoded', async () => {
  const tokenizer = await make(byteLevel());
  const ids = tokenizer.encode('<|begin|>a<｜think｜>b<|end|>');
  expect(ids).toEqual([265, 97, 267, 98, 266]);
  expect(ids.map((id) => tokenizer.isSpecial(id))).toEqual([true, false, false, false, true]);
  expect(tokenizer.decode(ids)).toBe('a<｜think｜>b');
  expect(tokenizer.tokenId('<|end|>')).toBe(266);
  expect(tokenizer.tokenId('<|none|>')).toBeUndefined();
  expect(tokenizer.token(267)).toBe('<｜think｜>');
});

test('a sequence of one decoder writes added tokens as they are', async () => {
  const tokenizer = await make(byteLevel({ decoder: { type: 'Sequence', decoders: [{ type: 'ByteLevel' }] } }));
  expect(tokenizer.decode([267, 97])).toBe('<｜think｜>a');
});

test('sentencepiece: spaces, bytes for what is not in the vocabulary, the template of the post-processor', async () => {
  const tokenizer = await make(sentencePiece());
  const written = (text: string, options = {}) => tokenizer.encode(text, options).map((id) => tokenizer.token(id));
  expect(written('the one')).toEqual(['<s>', '▁the', '▁one']);
  expect(written('the 5', { addSpecialTokens: false })).toEqual(['▁the', '▁', '<0x35>']);
  expect(written('é€', { addSpecialTokens: false })).toEqual(['▁', 'é', '<0xE2>', '<0x82>', '<0xAC>']);
  for (const text of ['the one', ' the', 'a  b', 'é€😀 ok']) expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
});

test('unigram', async () => {
  const tokenizer = await make(unigram());
  expect(tokenizer.encode('the cats').map((id) => tokenizer.token(id))).toEqual(['▁the', '▁', 'cat', 's']);
  expect(tokenizer.decode(tokenizer.encode('the cats'))).toBe('the cats');
});

test('other kinds', async () => {
  const piece = await make(wordPiece());
  expect(piece.decode(piece.encode('the cats, cat!'))).toBe('the cats, cat!');
  const suffix = await make(endOfWord());
  expect(suffix.decode(suffix.encode('cat a cat'))).toBe('cat a cat');
  const word = await make(words());
  expect(word.encode('the dog sat')).toEqual([1, 0, 3]);
  expect(word.decode([1, 2])).toBe('the cat');
});

test('spaces before punctuation stay', async () => {
  const tokenizer = await make(byteLevel(), { clean_up_tokenization_spaces: true });
  expect(tokenizer.decode(tokenizer.encode("a . b 's"))).toBe("a . b 's");
});

test('text that the vocabulary cannot express is left out where no token stands for it', async () => {
  const tokenizer = await make(words({ model: { type: 'WordLevel', vocab: { the: 1, cat: 5 } } }));
  expect(tokenizer.encode('the dog cat')).toEqual([1, 5]);
  expect(tokenizer.vocabSize).toBe(6);
  expect(tokenizer.decode([0, 1, 3, 5, 100])).toBe('the cat');
});

test('ids past the vocabulary decode to nothing', async () => {
  for (const json of [byteLevel(), sentencePiece(), unigram()]) {
    const tokenizer = await make(json);
    expect(tokenizer.decode([tokenizer.vocabSize, 10 ** 9])).toBe('');
    expect(tokenizer.token(tokenizer.vocabSize)).toBeUndefined();
  }
  expect((await make(byteLevel())).decode([])).toBe('');
});

describe('tokenizer_config.json', () => {
  test('names tokens as strings or as objects', async () => {
    const tokenizer = await make(byteLevel(), { bos_token: { __type: 'AddedToken', content: '<|begin|>' }, eos_token: '<|end|>', pad_token: null });
    expect(tokenizer).toMatchObject({ bosTokenId: 265, eosTokenId: 266 });
    expect(await make(byteLevel())).toMatchObject({ bosTokenId: undefined, eosTokenId: undefined });
    expect(await make(byteLevel(), { bos_token: 'unheard of' })).toMatchObject({ bosTokenId: undefined });
  });

  test('add_bos_token puts one BOS in front', async () => {
    const config = { add_bos_token: true, bos_token: '<|begin|>' };
    const tokenizer = await make(byteLevel(), config);
    expect(tokenizer.encode('a')).toEqual([265, 97]);
    expect(tokenizer.encode('<|begin|>a')).toEqual([265, 97]);
    expect(tokenizer.encode('a', { addSpecialTokens: false })).toEqual([97]);
    const templated = await make(sentencePiece(), { add_bos_token: true, bos_token: '<s>' });
    expect(templated.encode('one')).toEqual([1, templated.tokenId('▁one')]);
    expect((await make(byteLevel(), { ...config, add_bos_token: false })).encode('a')).toEqual([97]);
  });

  test('its special tokens are left out when text is decoded', async () => {
    const tokenizer = await make(byteLevel(), { eos_token: 'z', additional_special_tokens: ['y', { content: 'x' }] });
    expect(tokenizer.decode([97, 120, 121, 122, 98])).toBe('ab');
  });

  test.each([
    [{ bos_token: 5 }, /tokenizer_config\.json: expected the text of a token for bos_token, found 5/],
    [{ eos_token: {} }, /the text of a token for eos_token, found nothing/],
    [{ add_bos_token: 'yes' }, /true or false for add_bos_token, found "yes"/],
    [{ add_bos_token: true }, /for bos_token, found nothing/],
    [{ add_bos_token: true, bos_token: 'what' }, /a token of tokenizer\.json for bos_token, found "what"/],
    [{ additional_special_tokens: 'x' }, /a list for additional_special_tokens/],
    ['{', /expected JSON/],
    [[], /expected a JSON object/],
  ])('refuses %j', async (config, message) => {
    await expectError(() => make(byteLevel(), config), 'FILE', message);
  });
});

test('arguments are checked', async () => {
  const tokenizer = await make(byteLevel());
  await expectError(() => tokenizer.encode(5 as never), 'INVALID_ARGUMENT', /a string for text but received 5/);
  await expectError(() => tokenizer.encode('a', { addSpecialToken: true } as never), 'INVALID_ARGUMENT', /did you mean "addSpecialTokens"/);
  await expectError(() => tokenizer.encode('a', { addSpecialTokens: 1 as never }), 'INVALID_ARGUMENT', /addSpecialTokens/);
  await expectError(() => tokenizer.decode('a' as never), 'INVALID_ARGUMENT', /an array of token ids/);
  await expectError(() => tokenizer.decode([1, -1]), 'INVALID_ARGUMENT', /a token id for id but received -1/);
  await expectError(() => tokenizer.decode([0.5]), 'INVALID_ARGUMENT', /0\.5/);
});

test('there may be no tokenizer', async () => {
  expect(await loadTokenizer(writeDirectory(root, {}))).toBeUndefined();
  expect(await loadTokenizer(writeDirectory(root, { 'tokenizer_config.json': {} }))).toBeUndefined();
});

test.each([
  ['no JSON', '{"model":', /tokenizer\.json: expected JSON/],
  ['no model', byteLevel({ model: null }), /tokenizer\.json: expected an object for model, found null/],
  ['no vocabulary', byteLevel({ model: { type: 'BPE', merges: [] } }), /an object for model\.vocab, found nothing/],
  ['an unknown model', byteLevel({ model: { type: 'Byte', vocab: {} } }), /BPE, Unigram, WordPiece or WordLevel for model\.type, found "Byte"/],
  ['a model of no kind', byteLevel({ model: { vocab: {} } }), /for model\.type, found nothing/],
  ['no merges', byteLevel({ model: { type: 'BPE', vocab: {} } }), /a list for model\.merges/],
  ['a merge of one', byteLevel({ model: { type: 'BPE', vocab: {}, merges: ['a b', 'ab'] } }), /two tokens for model\.merges\[1\], found "ab"/],
  ['a prefix inside words', byteLevel({ model: { type: 'BPE', vocab: {}, merges: [], continuing_subword_prefix: '##' } }), /continuing_subword_prefix/],
  ['an id that is none', byteLevel({ model: { type: 'WordLevel', vocab: { a: -1 } } }), /the id of token "a", found -1/],
  ['a huge id', byteLevel({ added_tokens: [added(2 ** 32, 'a')] }), /added_tokens\[0\]\.id, found 4294967296/],
  ['an empty added token', byteLevel({ added_tokens: [added(1, '')] }), /added_tokens\[0\]\.content, found ""/],
  ['added tokens that are no list', byteLevel({ added_tokens: {} }), /a list for added_tokens/],
  ['a score that is none', unigram({ model: { type: 'Unigram', vocab: [['a', '1']], unk_id: 0 } }), /model\.vocab\[0\]/],
  ['an unknown decoder', byteLevel({ decoder: { type: 'Magic' } }), /could not be made into a tokenizer \(Unknown Decoder type: Magic\)/],
  ['a decoder that is none', byteLevel({ decoder: 'ByteLevel' }), /an object or null for decoder, found "ByteLevel"/],
  ['an unknown pattern', sentencePiece({ normalizer: { type: 'Replace', pattern: { Glob: '*' }, content: '' } }), /normalizer\.pattern/],
  ['a pattern inside', byteLevel({ decoder: { type: 'Sequence', decoders: [{ type: 'Replace' }, { type: 'Fuse' }] } }), /decoder\.decoders\[0\]\.pattern/],
  ['a wrong regular expression', byteLevel({ pre_tokenizer: { type: 'Split', pattern: { Regex: '(' }, behavior: 'Isolated', invert: false } }), /could not be made/],
])('refuses %s', async (_, json, message) => {
  await expectError(() => make(json), 'FILE', message);
});

test('deep nesting is refused, not a stack overflow', async () => {
  const depth = 20_000;
  const deep = `${'{"type":"Sequence","decoders":['.repeat(depth)}{"type":"Fuse"}${']}'.repeat(depth)}`;
  await expectError(() => make(JSON.stringify(byteLevel({ decoder: 'DEEP' })).replace('"DEEP"', deep)), 'FILE', /nested steps/);
});

test('what the library only notices when it is used names the file too', async () => {
  const tokenizer = await make(sentencePiece({ post_processor: { type: 'TemplateProcessing', single: 5, pair: [] } }));
  await expectError(() => tokenizer.encode('one'), 'FILE', /tokenizer\.json: could not be used to encode/);
});

test.each([['byte-level', byteLevel()], ['sentencepiece', sentencePiece()], ['unigram', unigram()]])(
  'a damaged %s tokenizer.json works or is refused', async (_, json) => {
    const warn = jest.spyOn(console, 'warn').mockImplementation(() => {}); // the library prints what it does not know
    const dir = writeDirectory(root, { 'tokenizer.json': json });
    const path = join(dir, 'tokenizer.json');
    const bytes = readFileSync(path);
    await fc.assert(
      fc.asyncProperty(damage(bytes.length), async (spoil) => {
        writeFileSync(path, spoil(bytes));
        try {
          const tokenizer = (await loadTokenizer(dir))!;
          tokenizer.decode(tokenizer.encode('the one, hello é€ <s> 1'));
        } catch (error) {
          if (!(error instanceof SpkvError) || error.code !== 'FILE') throw error;
          expect(error.message).toContain('tokenizer.json');
        }
      }),
      { numRuns: 300 },
    );
    warn.mockRestore();
  },
);
