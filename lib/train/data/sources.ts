import { stat } from 'node:fs/promises';
import { basename, extname, relative, resolve, sep } from 'node:path';
import { glob } from 'tinyglobby';
import { invalid, options, string } from '../../check.js';
import { SpkvError } from '../../errors.js';
import { failure, fileError, kindOf } from '../../files.js';

/** Text to train on: a file, or the files of a directory. */
export interface DataSource {
  /** A text file, a JSONL file (.jsonl, .ndjson), or a directory of such files. */
  path: string;
  /** Which files of a directory: a glob pattern, or several that are joined. Defaults to all that are not hidden. */
  pattern?: string | string[];
  /** The field of a JSONL record that holds its text, or its token ids. Defaults to 'text'. */
  field?: string;
}

/** A path alone stands for a source of that path. */
export type DataSources = string | DataSource | readonly (string | DataSource)[];

/** One file of a data source, as it was when it was found. */
export interface SourceFile {
  /** Absolute. */
  path: string;
  /** The same wherever the data lies: the path from the directory that was given, that directory included. */
  name: string;
  format: 'text' | 'jsonl';
  field: string;
  bytes: number;
  /** Time of the last change, in milliseconds. */
  modified: number;
}

const JSONL = ['.jsonl', '.ndjson'];
const DEFAULT_FIELD = 'text';

/** Checks sources given by a user and writes them out in full. Errors: INVALID_ARGUMENT. */
export function resolveSources(given: DataSources, name: string): DataSource[] {
  const list = Array.isArray(given) ? (given as readonly (string | DataSource)[]) : [given as string | DataSource];
  if (list.length === 0) throw invalid('at least one file or directory', name, list);
  return list.map((item) => {
    if (typeof item === 'string') return { path: string(item, name) };
    const { path, pattern, field } = options(item, name, ['path', 'pattern', 'field']);
    for (const text of pattern === undefined ? [] : [pattern].flat()) string(text, `pattern of ${name}`);
    return {
      path: string(path, `path of ${name}`),
      ...(pattern === undefined ? {} : { pattern }),
      ...(field === undefined ? {} : { field: string(field, `field of ${name}`) }),
    };
  });
}

/** The files of all sources, each once, by name. Errors: FILE where a path is missing or no file fits a pattern. */
export async function findFiles(sources: readonly DataSource[]): Promise<SourceFile[]> {
  const files = new Map<string, SourceFile>();
  for (const source of sources) {
    for (const { path, name } of await pathsOf(source)) {
      if (!files.has(path)) files.set(path, await describeFile(path, name, source.field ?? DEFAULT_FIELD));
    }
  }
  // By code units, so that the order is the same in every locale.
  return [...files.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.path < b.path ? -1 : 1));
}

async function pathsOf({ path, pattern }: DataSource): Promise<{ path: string; name: string }[]> {
  const root = resolve(path);
  const kind = await kindOf(root);
  if (kind === undefined) throw fileError(path, 'expected a file or a directory of training text, found nothing');
  if (kind === 'other') throw fileError(path, 'expected a file or a directory of training text, found something else');
  if (kind === 'file') {
    if (pattern !== undefined) throw new SpkvError('INVALID_ARGUMENT', `Expected no pattern for ${path}: it is a file, and patterns choose files of a directory`);
    return [{ path: root, name: basename(root) }];
  }
  const patterns = pattern === undefined ? ['**/*'] : [pattern].flat();
  const found = await glob(patterns, { cwd: root, absolute: true, onlyFiles: true, expandDirectories: false });
  if (found.length === 0) throw fileError(path, `expected files that fit ${patterns.join(', ')}, found none`);
  return found.map((file) => ({ path: resolve(file), name: `${basename(root)}/${relative(root, file).split(sep).join('/')}` }));
}

async function describeFile(path: string, name: string, field: string): Promise<SourceFile> {
  try {
    const { size, mtimeMs } = await stat(path);
    return { path, name, format: JSONL.includes(extname(path).toLowerCase()) ? 'jsonl' : 'text', field, bytes: size, modified: mtimeMs };
  } catch (error) {
    throw failure(path, 'looked at', error);
  }
}
