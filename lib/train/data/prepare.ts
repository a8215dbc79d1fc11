import { createHash } from 'node:crypto';
import { mkdir, open, readFile, rm, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { SpkvError } from '../../errors.js';
import { failure, fileError, kindOf } from '../../files.js';
import { readOptionalJson } from '../../json.js';
import type { Tokenizer } from '../../text/tokenizer.js';
import { writeWhole } from '../../write.js';
import { type Cursor, type Piece, readBlocks } from './documents.js';
import type { SourceFile } from './sources.js';
import { DOCUMENT_BYTES, DOCUMENTS, packDocument, packTokens, STATE, tokenBytes, TokenFile, TOKENS } from './token-file.js';

const FORMAT = 1;
/** How much work a kill can cost. */
const SAVE_MS = 2000;
const START: Cursor = { offset: 0, line: 1 };

/** How text becomes tokens. */
export interface Encoding {
  /** Undefined where the checkpoint has none: then the data must hold token ids. */
  tokenizer: Tokenizer | undefined;
  /** Of the model. */
  vocabSize: number;
  /** Put before and after every document that is text. */
  documentStart: readonly number[];
  documentEnd: readonly number[];
}

export interface PrepareOptions {
  /** Where the token file goes. */
  dir: string;
  files: readonly SourceFile[];
  encoding: Encoding;
  /** Leave data out that cannot be used, with a warning, instead of failing. */
  skipBad: boolean;
  /** Told the bytes read, of how many. */
  onProgress?: (done: number, total: number) => void;
  onWarning?: (message: string) => void;
  signal?: AbortSignal | undefined;
}

/** dataset.json */
interface State {
  format: number;
  /** Of the tokenizer, the files as they were, and the options. */
  fingerprint: string;
  encoding: string;
  vocabSize: number;
  files: string[];
  /** The file that is read next, and where in it. */
  file: number;
  cursor: Cursor;
  tokens: number;
  documents: number;
  bad: number;
  complete: boolean;
}

/**
 * Tokenises files into a token file. One that is there already is used as it is where the files, the tokenizer and
 * the options are the same; one whose making was interrupted is continued.
 * Errors: FILE (also for bad data, with file and line), UNSUPPORTED; the reason of `signal`.
 */
export async function prepareTokens(given: PrepareOptions): Promise<TokenFile> {
  const { dir, files, encoding } = given;
  const fingerprint = await fingerprintOf(given);
  let state = await readState(dir);
  if (state?.fingerprint !== fingerprint) {
    await rm(join(dir, STATE), { force: true });
    state = {
      format: FORMAT, fingerprint, encoding: await encodingHash(encoding), vocabSize: encoding.vocabSize, files: files.map(({ name }) => name),
      file: 0, cursor: START, tokens: 0, documents: 0, bad: 0, complete: false,
    };
  }
  if (!state.complete) await tokenise(given, state);
  if (state.bad > 0) given.onWarning?.(`${state.bad} pieces of data cannot be used and were left out`);
  return openState(dir, state);
}

/**
 * Opens a token file that was made before, by another run or on another machine. Errors: FILE where it is not
 * complete, or was made with another tokenizer.
 */
export async function openTokens(dir: string, encoding: Encoding): Promise<TokenFile> {
  const state = await readState(dir);
  const path = join(dir, STATE);
  if (!state) throw fileError(path, 'expected a token file, found none; where several hosts train together they must share the directory');
  if (!state.complete) throw fileError(path, 'expected a token file that is complete, found one whose making was interrupted');
  if (state.encoding !== (await encodingHash(encoding))) throw fileError(path, 'expected tokens of this model\'s tokenizer, found those of another');
  return openState(dir, state);
}

/** Whether a directory is a token file. */
export async function isTokenFile(path: string): Promise<boolean> {
  return (await kindOf(join(path, STATE))) === 'file' && (await kindOf(join(path, TOKENS))) === 'file';
}

function openState(dir: string, { files, fingerprint, vocabSize, tokens, documents }: State): Promise<TokenFile> {
  return TokenFile.open(dir, files, fingerprint, tokenBytes(vocabSize), tokens, documents);
}

async function readState(dir: string): Promise<State | undefined> {
  const json = (await readOptionalJson(join(dir, STATE))) as State | undefined;
  return json?.format === FORMAT ? json : undefined;
}

async function tokenise(given: PrepareOptions, state: State): Promise<void> {
  const { dir, files, encoding, onProgress, signal } = given;
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  const bad = (error: SpkvError) => {
    if (!given.skipBad) throw error;
    if (state.bad === 0) given.onWarning?.(`left out: ${error.message}`);
    state.bad++;
  };
  warnOfEmpty(files, given.onWarning);
  const writer = await TokenWriter.open(dir, state);
  try {
    let done = files.slice(0, state.file).reduce((sum, file) => sum + file.bytes, 0);
    while (state.file < files.length) {
      const file = files[state.file]!;
      for await (const block of readBlocks(file, state.cursor, bad)) {
        signal?.throwIfAborted();
        for (const piece of block.pieces) writer.add(encode(piece, file, encoding), piece);
        state.cursor = block.next;
        onProgress?.(done + block.next.offset, total);
        if (block.end) break;
        await writer.save();
        await new Promise(setImmediate);
      }
      done += file.bytes;
      state.file++;
      state.cursor = START;
      await writer.save();
    }
    await writer.finish();
  } finally {
    await writer.close();
  }
}

function encode({ content, line, first, last }: Piece, file: SourceFile, { tokenizer, vocabSize, documentStart, documentEnd }: Encoding): number[] {
  let ids: number[];
  if (typeof content === 'string') {
    if (!tokenizer) throw new SpkvError('UNSUPPORTED', `${file.path}: the model has no tokenizer.json, so that data must be JSONL with token ids`);
    ids = [...(first ? documentStart : []), ...tokenizer.encode(content, { addSpecialTokens: false }), ...(last ? documentEnd : [])];
  } else {
    ids = [...content];
  }
  const wrong = ids.find((id) => id >= vocabSize);
  if (wrong === undefined) return ids;
  throw fileError(`${file.path}:${line}`, `expected token ids below ${vocabSize}, the vocabulary of the model, found ${wrong}`);
}

/** Appends to a token file. What the state does not yet know of is overwritten when the work is taken up again. */
class TokenWriter {
  #saved = performance.now();
  #buffers: Buffer[] = [];
  #records: Buffer[] = [];
  /** Where the document that is being written began. */
  #line = 1;

  private constructor(
    private readonly dir: string,
    private readonly state: State,
    private readonly tokens: FileHandle,
    private readonly documents: FileHandle,
  ) {}

  static async open(dir: string, state: State): Promise<TokenWriter> {
    let tokens: FileHandle | undefined;
    try {
      await mkdir(dir, { recursive: true });
      tokens = await openAt(join(dir, TOKENS), state.tokens * tokenBytes(state.vocabSize));
      return new TokenWriter(dir, state, tokens, await openAt(join(dir, DOCUMENTS), state.documents * DOCUMENT_BYTES));
    } catch (error) {
      await tokens?.close();
      throw failure(dir, 'written', error);
    }
  }

  add(ids: readonly number[], { line, first, last }: Piece): void {
    if (first) this.#line = line;
    this.#buffers.push(packTokens(ids, tokenBytes(this.state.vocabSize)));
    this.state.tokens += ids.length;
    if (!last) return;
    this.#records.push(packDocument(this.state.tokens, this.state.file, this.#line));
    this.state.documents++;
  }

  /** Writes what has been added, and now and then the state, from which the work can be taken up again. */
  async save(force = false): Promise<void> {
    const due = force || performance.now() - this.#saved >= SAVE_MS;
    if (!due && this.#buffers.length < 64) return;
    try {
      await this.tokens.appendFile(Buffer.concat(this.#buffers));
      await this.documents.appendFile(Buffer.concat(this.#records));
      this.#buffers = [];
      this.#records = [];
      if (!due) return;
      await this.tokens.sync();
      await this.documents.sync();
    } catch (error) {
      throw failure(this.dir, 'written', error);
    }
    await writeWhole(join(this.dir, STATE), JSON.stringify(this.state));
    this.#saved = performance.now();
  }

  async finish(): Promise<void> {
    this.state.complete = true;
    await this.save(true);
  }

  async close(): Promise<void> {
    await this.tokens.close();
    await this.documents.close();
  }
}

/** A file for appending whose first `bytes` are kept. */
async function openAt(path: string, bytes: number): Promise<FileHandle> {
  const file = await open(path, 'a');
  await file.truncate(bytes);
  return file;
}

function warnOfEmpty(files: readonly SourceFile[], onWarning?: (message: string) => void): void {
  const empty = files.filter((file) => file.bytes === 0);
  if (empty.length === 1) onWarning?.(`${empty[0]!.path} is empty and was left out`);
  if (empty.length > 1) onWarning?.(`${empty.length} empty files were left out, ${empty[0]!.path} first`);
}

async function fingerprintOf({ files, encoding, skipBad }: PrepareOptions): Promise<string> {
  const listed = files.map(({ name, format, field, bytes, modified }) => [name, format, field, bytes, modified]);
  return sha256(JSON.stringify([FORMAT, await encodingHash(encoding), skipBad, listed]));
}

async function encodingHash({ tokenizer, vocabSize, documentStart, documentEnd }: Encoding): Promise<string> {
  const files: string[] = [];
  if (tokenizer) {
    for (const path of [tokenizer.path, join(dirname(tokenizer.path), 'tokenizer_config.json')]) {
      if ((await kindOf(path)) === 'file') files.push(sha256(await readFile(path)));
    }
  }
  return sha256(JSON.stringify([files, vocabSize, documentStart, documentEnd]));
}

function sha256(data: string | Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}
