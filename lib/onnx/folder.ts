import { copyFile, mkdir, readdir, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { copyCompanions } from '../checkpoint/companions.js';
import { failure, fileError, kindOf } from '../files.js';
import { writeDirectory, writeWhole } from '../write.js';
import { type NewGraph, oneGraph, type OnnxForm, parts, type SplitDecoder } from './forms.js';
import type { GraphBuilder } from './graph.js';
import { MANIFEST, type OnnxManifest } from './manifest.js';
import type { Codec, ModelProto } from './schema.js';
import type { WeightsFile } from './weights-file.js';

export const WEIGHTS = 'weights.bin';

/** The content of an exported directory. */
export interface FolderContent {
  manifest: OnnxManifest;
  /** Graphs by their file names. */
  graphs: ReadonlyMap<string, ModelProto>;
  weights: WeightsFile;
  /** Directory that config.json and the tokenizer come from. */
  from: string;
}

/** The graphs of the forms that are wanted, by file name, and what the manifest says of them. */
export function writeForms(
  decoder: SplitDecoder, form: OnnxForm | 'both', newGraph: NewGraph,
): { models: Map<string, ModelProto>; names: Pick<OnnxManifest, 'graph' | 'parts'> } {
  const models = new Map<string, ModelProto>();
  const add = (graph: GraphBuilder) => {
    models.set(`${graph.name}.onnx`, graph.build());
    return `${graph.name}.onnx`;
  };
  return {
    models,
    names: {
      ...(form !== 'parts' && { graph: add(oneGraph(decoder, newGraph)) }),
      ...(form !== 'graph' && { parts: parts(decoder, newGraph).map(add) }),
    },
  };
}

/** Refuses an output directory that holds something else than an earlier export. Errors: FILE. */
export async function checkOutput(out: string): Promise<void> {
  const kind = await kindOf(out);
  if (kind === undefined) return;
  if (kind !== 'directory') throw fileError(out, 'expected a directory or nothing, found a file');
  const names = await readdir(out).catch((error: unknown) => {
    throw failure(out, 'listed', error);
  });
  if (names.length > 0 && !names.includes(MANIFEST)) {
    throw fileError(out, `expected an empty directory or an earlier export (with ${MANIFEST}), found other files; nothing was written`);
  }
}

/** Writes the directory, which is there as a whole or not at all; an earlier export is replaced. Errors: FILE, the reason of `signal`. */
export async function writeFolder(
  out: string, { manifest, graphs, weights, from }: FolderContent, codec: Codec, onProgress?: (share: number) => void, signal?: AbortSignal,
): Promise<void> {
  const path = resolve(out);
  const encoded = [...graphs].map(([name, model]) => [name, codec.encode(model)] as const);
  await makeRoom(path, weights.bytes + encoded.reduce((sum, [, bytes]) => sum + bytes.byteLength, 0));
  await writeDirectory(path, async (temporary) => {
    await copyCompanions(from, temporary);
    if ((await kindOf(join(from, 'config.json'))) === 'file') await copyFile(join(from, 'config.json'), join(temporary, 'config.json'));
    await weights.write(join(temporary, weights.location), onProgress, signal);
    for (const [name, bytes] of encoded) await writeWhole(join(temporary, name), bytes);
    await writeWhole(join(temporary, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
    signal?.throwIfAborted();
  });
  onProgress?.(1);
}

/** Before minutes are spent on what does not fit. */
async function makeRoom(path: string, bytes: number): Promise<void> {
  let free: number;
  try {
    await mkdir(dirname(path), { recursive: true });
    const { bavail, bsize } = await statfs(dirname(path));
    free = bavail * bsize;
  } catch (error) {
    throw failure(path, 'written', error);
  }
  if (free < bytes) throw fileError(path, `expected room of ${Math.ceil(bytes / 2 ** 20)} MiB on the disk, found ${Math.floor(free / 2 ** 20)} MiB`);
}
