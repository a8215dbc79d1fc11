import { join } from 'node:path';
import { mismatch } from '../files.js';
import { isObject, type JsonObject, readOptionalJson, show } from '../json.js';

const TOKEN_FIELDS = ['bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token'] as const;
export type TokenField = (typeof TOKEN_FIELDS)[number];

/** What spkv takes from a tokenizer_config.json; empty where there is none. */
export interface TokenizerConfig {
  readonly path: string;
  readonly fields: JsonObject;
  /** The special tokens by what they are for. */
  readonly tokens: Readonly<Partial<Record<TokenField, string>>>;
  readonly additionalTokens: readonly string[];
  readonly addBosToken: boolean;
}

/** Reads the tokenizer_config.json of a checkpoint directory. Errors: FILE. */
export async function readTokenizerConfig(dir: string): Promise<TokenizerConfig> {
  const path = join(dir, 'tokenizer_config.json');
  const fields = (await readOptionalJson(path)) ?? {};
  const tokens: Partial<Record<TokenField, string>> = {};
  for (const field of TOKEN_FIELDS) {
    const value = fields[field];
    if (value !== undefined && value !== null) tokens[field] = tokenText(value, field, path);
  }
  const additional = fields.additional_special_tokens ?? [];
  if (!Array.isArray(additional)) throw mismatch(path, 'additional_special_tokens', 'a list', show(additional));
  const addBosToken = fields.add_bos_token ?? false;
  if (typeof addBosToken !== 'boolean') throw mismatch(path, 'add_bos_token', 'true or false', show(addBosToken));
  if (addBosToken && tokens.bos_token === undefined) throw mismatch(path, 'bos_token', 'a token, for add_bos_token is true,', 'nothing');
  return {
    path,
    fields,
    tokens,
    additionalTokens: additional.map((value, index) => tokenText(value, `additional_special_tokens[${index}]`, path)),
    addBosToken,
  };
}

/** A token is written as its text or as an AddedToken object. */
function tokenText(value: unknown, place: string, path: string): string {
  const text = isObject(value) ? value.content : value;
  if (typeof text !== 'string') throw mismatch(path, place, 'the text of a token', show(text));
  return text;
}
