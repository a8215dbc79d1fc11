import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadTokenizer, type Tokenizer } from '../../lib/text/tokenizer.js';

type Json = Record<string, unknown>;

/** The character that stands for a byte in the vocabulary of byte-level tokenizers. */
export const BYTE_CHARACTERS: readonly string[] = byteCharacters();

function byteCharacters(): string[] {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const others = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !printable(byte));
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : 256 + others.indexOf(byte)));
}

function tokenizerJson(parts: Json): Json {
  return { version: '1.0', truncation: null, padding: null, added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, ...parts };
}

export function added(id: number, content: string, special = true): Json {
  return { id, content, special, single_word: false, lstrip: false, rstrip: false, normalized: false };
}

function ids(tokens: readonly string[]): Record<string, number> {
  return Object.fromEntries(tokens.map((token, id) => [token, id]));
}

/** A byte-level BPE tokenizer as of GPT-2, Llama 3 and Qwen: 256 bytes, a few merges, two special tokens and one that is not. */
export function byteLevel(parts: Json = {}): Json {
  // The last two merges make tokens that end inside "é" and "€" (bytes e2 82 ac).
  const [c3, e2, x82] = [0xc3, 0xe2, 0x82].map((byte) => BYTE_CHARACTERS[byte]!);
  const merges = ['t h', 'th e', 'Ġ the', 'l l', 'e ll', 'h ell', 'hell o', `f ${c3}`, `${e2} ${x82}`];
  const vocab = ids([...BYTE_CHARACTERS, ...merges.map((merge) => merge.replace(' ', ''))]);
  const next = 256 + merges.length;
  return tokenizerJson({
    added_tokens: [added(next, '<|begin|>'), added(next + 1, '<|end|>'), added(next + 2, '<｜think｜>', false)],
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: 'BPE', vocab, merges, unk_token: null, byte_fallback: false },
    ...parts,
  });
}

/** A tokenizer converted from sentencepiece as of Llama 2: ▁ for spaces and a token for every byte. */
export function sentencePiece(parts: Json = {}): Json {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  const merges = ['▁ t', 'h e', '▁t he', '▁ ▁', 'o n', '▁ on', '▁on e'];
  const characters = [...'▁abcdefghijklmnopqrstuvwxyz.,é'];
  const vocab = ids(['<unk>', '<s>', '</s>', ...bytes, ...characters, ...merges.map((merge) => merge.replace(' ', ''))]);
  return tokenizerJson({
    added_tokens: [added(0, '<unk>'), added(1, '<s>'), added(2, '</s>')],
    normalizer: {
      type: 'Sequence',
      normalizers: [{ type: 'Prepend', prepend: '▁' }, { type: 'Replace', pattern: { String: ' ' }, content: '▁' }],
    },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: { type: 'BPE', vocab, merges, unk_token: '<unk>', fuse_unk: true, byte_fallback: true },
    ...parts,
  });
}

/** A unigram tokenizer with the Metaspace pre-tokenizer and decoder. */
export function unigram(parts: Json = {}): Json {
  const vocab = [['<unk>', 0], ['▁', -3], ['▁the', -1], ['▁a', -2], ['cat', -2], ['s', -3], ['é', -4]];
  const metaspace = { type: 'Metaspace', replacement: '▁', add_prefix_space: true, prepend_scheme: 'always' };
  return tokenizerJson({
    added_tokens: [added(0, '<unk>')],
    pre_tokenizer: metaspace,
    decoder: metaspace,
    model: { type: 'Unigram', vocab, unk_id: 0, byte_fallback: false },
    ...parts,
  });
}

/** Tokenizers of kinds that language models hardly use, by their decoders. */
export function wordPiece(parts: Json = {}): Json {
  return tokenizerJson({
    added_tokens: [added(0, '[UNK]')],
    pre_tokenizer: { type: 'Whitespace' },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 100,
      vocab: ids(['[UNK]', 'the', 'cat', '##s', '##é', ',', '.', '!', "'", 's', "n't"]),
    },
    ...parts,
  });
}

export function endOfWord(parts: Json = {}): Json {
  return tokenizerJson({
    added_tokens: [added(0, '<unk>')],
    pre_tokenizer: { type: 'WhitespaceSplit' },
    decoder: { type: 'BPEDecoder', suffix: '</w>' },
    model: {
      type: 'BPE', unk_token: '<unk>', end_of_word_suffix: '</w>', merges: ['c a', 'ca t</w>'],
      vocab: ids(['<unk>', 'a', 'c', 't', 'a</w>', 'c</w>', 't</w>', 'ca', 'cat</w>']),
    },
    ...parts,
  });
}

export function words(parts: Json = {}): Json {
  return tokenizerJson({
    pre_tokenizer: { type: 'WhitespaceSplit' },
    model: { type: 'WordLevel', unk_token: '[?]', vocab: ids(['[?]', 'the', 'cat', 'sat']) },
    ...parts,
  });
}

let directories = 0;

/** Writes files into a new directory under `root`: objects as JSON, strings as they are. */
export function writeDirectory(root: string, files: Record<string, unknown>): string {
  const dir = join(root, `checkpoint-${directories++}`);
  mkdirSync(dir);
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(dir, name), typeof content === 'string' ? content : JSON.stringify(content));
  }
  return dir;
}

/** Writes a tokenizer.json, and a tokenizer_config.json if given, and loads them. */
export async function makeTokenizer(root: string, json: unknown, config?: unknown): Promise<Tokenizer> {
  const dir = writeDirectory(root, { 'tokenizer.json': json, ...(config === undefined ? {} : { 'tokenizer_config.json': config }) });
  return (await loadTokenizer(dir))!;
}
