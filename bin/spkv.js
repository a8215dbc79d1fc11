#!/usr/bin/env node
import { existsSync } from 'node:fs';

const main = new URL('../dist/cli/main.js', import.meta.url);
if (existsSync(main)) {
  await import(main.href);
} else {
  process.stderr.write('spkv: this checkout is not compiled yet: run `npm run build`, or `npx tsx lib/cli/main.ts` in its place\n');
  process.exitCode = 1;
}
