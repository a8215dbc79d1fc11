import { join } from 'node:path';
import { boolean, invalid, isInteger, options as checkOptions, string } from '../check.js';
import { SpkvError } from '../errors.js';
import { fileError, mismatch, readOptionalText } from '../files.js';
import { type JsonObject, parseJsonObject } from '../json.js';
import { byteTokens, encodeBytes } from './byte-level.js';
import { type LibraryTokenizer, Tokenizer as Library } from './library.js';
import { readTokenizerConfig, type TokenizerConfig } from './tokenizer-config.js';
import { checkTokenizerFile, type TokenizerFile } from './tokenizer-file.js';

/** How a text is to be encoded; all optional. */
export interface EncodeOptions {
  /** Add the special tokens of a prompt, such as one at its beginning. Defaults to true. */
  addSpecialTokens?: boolean;
}

/**
 * Loads tokenizer.json, and tokenizer_config.json if there is one, from a checkpoint directory; undefined where
 * there is no tokenizer.json. Errors: FILE.
 */
export async function loadTokenizer(dir: string): Promise<Tokenizer | undefined> {
  const path = join(dir, 'tokenizer.json');
  const text = await readOptionalText(path);
  if (text === undefined) return undefined;
  const file = checkTokenizerFile(parseJsonObject(text, path, { duplicates: 'allow' }), path);
  return new Tokenizer(path, file, await readTokenizerConfig(dir));
}

/** Turns text into token ids and back, as the Hugging Face tokenizer of the same tokenizer.json does. */
export class Tokenizer {
  /** The tokenizer.json it was read from. */
  readonly path: string;
  /** One more than the largest token id. The model's own vocabulary may be larger: its last rows then mean nothing. */
  readonly vocabSize: number;
  /** The token at the beginning of a text, if the checkpoint names one. */
  readonly bosTokenId: number | undefined;
  /** The token at the end of a text, if the checkpoint names one. */
  readonly eosTokenId: number | undefined;
  /** @internal How tokens become text, as in tokenizer.json. */
  readonly decoder: JsonObject | null;
  /** @internal What words of the vocabulary end with; '' for most tokenizers. */
  readonly wordSuffix: string;
  readonly #library: LibraryTokenizer;
  readonly #added: ReadonlySet<string>;
  readonly #special: ReadonlySet<string>;
  readonly #addBos: boolean;
  /** Of a tokenizer to which text is its bytes. */
  readonly #byteTokens: Uint32Array | undefined;

  /** @internal Use {@link loadTokenizer}. */
  constructor(path: string, file: TokenizerFile, config: TokenizerConfig) {
    this.path = path;
    this.decoder = file.decoder;
    this.wordSuffix = file.wordSuffix;
    this.#library = createLibrary(path, file, config);
    this.vocabSize = this.#library.model.vocab.length;
    this.#byteTokens = plainText(config) ? byteTokens(file) : undefined;
    const { bos_token: bos, eos_token: eos } = config.tokens;
    this.bosTokenId = bos === undefined ? undefined : this.#library.token_to_id(bos);
    this.eosTokenId = eos === undefined ? undefined : this.#library.token_to_id(eos);
    this.#addBos = config.addBosToken;
    if (this.#addBos && this.bosTokenId === undefined) throw mismatch(config.path, 'bos_token', 'a token of tokenizer.json', `"${bos}"`);
    this.#added = new Set(file.addedTokens.map(({ content }) => content));
    this.#special = new Set([
      ...file.addedTokens.filter(({ special }) => special).map(({ content }) => content),
      ...Object.values(config.tokens),
      ...config.additionalTokens,
    ]);
  }

  /**
   * Token ids of a text. Special tokens written out in the text become those tokens. Text that the vocabulary
   * cannot express becomes its token for unknown text, or nothing where it has none.
   */
  encode(text: string, options?: EncodeOptions): number[] {
    string(text, 'text');
    const { addSpecialTokens = true } = checkOptions(options, 'encode options', ['addSpecialTokens']);
    boolean(addSpecialTokens, 'addSpecialTokens');
    const ids = this.#byteTokens ? encodeBytes(text, this.#byteTokens) : this.#encodeGenerally(text, addSpecialTokens);
    if (addSpecialTokens && this.#addBos && ids[0] !== this.bosTokenId) ids.unshift(this.bosTokenId!);
    return ids;
  }

  /**
   * The text of token ids, without special tokens. Bytes that are not UTF-8 become U+FFFD, and ids past the
   * vocabulary become nothing. For text that grows token by token use a StreamDecoder.
   */
  decode(ids: readonly number[]): string {
    if (!Array.isArray(ids)) throw invalid('an array of token ids', 'ids', ids);
    const spoken = ids.filter((id) => this.spoken(id) !== undefined);
    if (spoken.length === 0) return '';
    return this.#guard('decode', () =>
      this.#library.decode(spoken, { skip_special_tokens: true, clean_up_tokenization_spaces: false }),
    );
  }

  /** A token as it is written in the vocabulary; undefined past its end. */
  token(id: number): string | undefined {
    if (!isInteger(id, 0, Number.MAX_SAFE_INTEGER)) throw invalid('a token id', 'id', id);
    return this.#library.id_to_token(id);
  }

  /** The id of a token as it is written in the vocabulary. */
  tokenId(token: string): number | undefined {
    return this.#library.token_to_id(string(token, 'token'));
  }

  /** Whether decoding leaves a token out. */
  isSpecial(id: number): boolean {
    const token = this.token(id);
    return token !== undefined && this.#special.has(token);
  }

  /** @internal The token, if it is one that decoding does not leave out. */
  spoken(id: number): string | undefined {
    const token = this.token(id);
    return token === undefined || this.#special.has(token) ? undefined : token;
  }

  /** @internal Whether a token stands for exactly the text that it is written as. */
  isAdded(token: string): boolean {
    return this.#added.has(token);
  }

  #encodeGenerally(text: string, addSpecialTokens: boolean): number[] {
    if (text === '' && !addSpecialTokens) return [];
    return this.#guard('encode', () => this.#library.encode(text, { add_special_tokens: addSpecialTokens }).ids.filter((id) => id !== undefined));
  }

  #guard<T>(action: string, run: () => T): T {
    try {
      return run();
    } catch (error) {
      throw libraryError(this.path, `could not be used to ${action}`, error);
    }
  }
}

/** Whether tokenizer_config.json leaves text as it is. */
function plainText({ fields: { remove_space, do_lowercase_and_remove_accent } }: TokenizerConfig): boolean {
  return remove_space !== true && do_lowercase_and_remove_accent !== true;
}

function createLibrary(path: string, file: TokenizerFile, config: TokenizerConfig): LibraryTokenizer {
  const { remove_space, do_lowercase_and_remove_accent } = config.fields;
  try {
    return new Library(file.json, {
      remove_space: remove_space === true,
      do_lowercase_and_remove_accent: do_lowercase_and_remove_accent === true,
      ...(file.unknownToken === undefined ? {} : { unk_token: file.unknownToken }),
      ...(config.tokens.eos_token === undefined ? {} : { eos_token: config.tokens.eos_token }),
    });
  } catch (error) {
    throw libraryError(path, 'could not be made into a tokenizer', error);
  }
}

/** The library's own errors name no file. */
function libraryError(path: string, problem: string, error: unknown): SpkvError {
  if (error instanceof SpkvError) return error;
  return fileError(path, `${problem} (${error instanceof Error ? error.message : String(error)})`, error);
}
