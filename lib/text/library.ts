// What spkv uses of @huggingface/tokenizers. Its own declarations do not resolve for ES modules: they leave out
// the file extensions, so that TypeScript finds no types (or no names) in them.
import * as library from '@huggingface/tokenizers';
import type { JsonObject } from '../json.js';

export interface LibraryTokenizer {
  readonly model: { readonly vocab: { readonly length: number } };
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
  decode(ids: readonly number[], options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean }): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
}

export interface LibraryDecoder {
  decode_chain(tokens: readonly string[]): string[];
}

export const { Tokenizer, ReplaceDecoder, StripDecoder } = library as unknown as {
  Tokenizer: new (tokenizer: JsonObject, config: JsonObject) => LibraryTokenizer;
  ReplaceDecoder: new (config: JsonObject) => LibraryDecoder;
  StripDecoder: new (config: JsonObject) => LibraryDecoder;
};
