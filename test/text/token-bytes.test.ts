import { bytesOf } from '../../lib/text/token-bytes.js';
import { temporaryDirectory } from '../support/files.js';
import { byteLevel, makeTokenizer, sentencePiece, unigram } from '../support/tokenizers.js';

const root = temporaryDirectory();

test.each([['byte-level', byteLevel], ['sentencepiece', sentencePiece], ['unigram', unigram]] as const)('the bytes of %s tokens make up the text', async (_, make) => {
  const tokenizer = await makeTokenizer(root, make());
  const ids = tokenizer.encode(make === unigram ? 'the cats' : 'the one, é.', { addSpecialTokens: false });
  const bytes = Buffer.concat(ids.map((id) => bytesOf(tokenizer, id)!));
  expect(bytes.toString().trimStart()).toBe(tokenizer.decode(ids));
});

test('a token may end within a character; one that is left out has no bytes', async () => {
  const tokenizer = await makeTokenizer(root, byteLevel());
  expect([...bytesOf(tokenizer, tokenizer.tokenId('fÃ')!)!]).toEqual([0x66, 0xc3]);
  expect(bytesOf(tokenizer, tokenizer.tokenId('<|end|>')!)).toBeUndefined();
  expect(bytesOf(tokenizer, 10_000)).toBeUndefined();
  const pieces = await makeTokenizer(root, sentencePiece());
  expect([...bytesOf(pieces, pieces.tokenId('<0xE2>')!)!]).toEqual([0xe2]);
});
