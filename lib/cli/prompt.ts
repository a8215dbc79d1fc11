import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { SpkvError } from '../errors.js';

export interface PromptFlags {
  file?: string;
  ids?: boolean;
}

/** The prompt from its argument, from --file, or from stdin; as token ids with --ids. */
export async function readPrompt(argument: string | undefined, flags: PromptFlags, command: Command): Promise<string | number[]> {
  if (argument !== undefined && flags.file !== undefined) command.error('error: give the prompt as an argument or with --file, not both');
  const text = argument ?? (await readPromptFile(flags.file, command));
  if (text.length === 0) command.error('error: the prompt is empty');
  return flags.ids ? parseIds(text, command) : text;
}

function readPromptFile(file: string | undefined, command: Command): Promise<string> {
  if (file !== undefined && file !== '-') return readTextFile(file);
  if (file === undefined && process.stdin.isTTY) {
    command.error('error: no prompt: give it as an argument, with --file, or on stdin');
  }
  return readUtf8('stdin', readStdin);
}

/** Pipes are files, too. Errors: FILE, naming the file. */
export function readTextFile(file: string): Promise<string> {
  return readUtf8(file, () => readFile(file));
}

async function readUtf8(file: string, read: () => Promise<Uint8Array>): Promise<string> {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(await read());
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const reason =
      code === 'ENOENT' ? 'there is no such file'
      : code === 'EISDIR' ? 'it is a directory'
      : error instanceof TypeError ? 'it is not UTF-8 text'
      : message;
    throw new SpkvError('FILE', `${file} cannot be read: ${reason}`, { cause: error });
  }
}

async function readStdin(): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

export function parseIds(text: string, command: Command): number[] {
  const words = text.replace(/[[\],]/g, ' ').trim().split(/\s+/).filter(Boolean);
  const wrong = words.find((word) => !/^\d+$/.test(word));
  if (wrong !== undefined) command.error(`error: --ids takes token ids such as "12 7 450", not "${wrong.slice(0, 40)}"`);
  if (words.length === 0) command.error('error: the prompt is empty');
  return words.map(Number);
}
