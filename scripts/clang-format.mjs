// Formats the C++ and CUDA sources, or with --check only says which are not formatted.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';

const { getNativeBinary } = createRequire(import.meta.url)('clang-format');
const files = readdirSync('native', { recursive: true })
  .filter((name) => /\.(h|cc|cuh|cu)$/.test(name))
  .map((name) => `native/${name}`);
const mode = process.argv.includes('--check') ? ['--dry-run', '--Werror'] : ['-i'];
const result = spawnSync(getNativeBinary(), [...mode, ...files], { stdio: 'inherit' });
process.exit(result.status ?? 1);
