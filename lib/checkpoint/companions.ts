import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { kindOf } from '../files.js';

/** Files of a checkpoint that stay what they are when its weights are changed or written in another form. */
const COMPANIONS = [
  'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json', 'tokenizer.model', 'vocab.json', 'merges.txt',
  'chat_template.jinja', 'generation_config.json',
];

/** Copies those that are there from one directory to another. */
export async function copyCompanions(from: string, to: string): Promise<void> {
  for (const name of COMPANIONS) {
    if ((await kindOf(join(from, name))) === 'file') await copyFile(join(from, name), join(to, name));
  }
}
