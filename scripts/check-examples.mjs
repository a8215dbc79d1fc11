// Type-checks the examples of README.md and docs/ against the sources. Every TypeScript block is a whole module; it is
// checked as .cache/examples/PAGE.LINE.ts, in which lines have the numbers that they have in the page.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const folder = join(root, '.cache/examples');
const pages = ['README.md', ...readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md')).map((name) => join('docs', name))];

rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
let count = 0;
for (const page of pages) {
  const text = readFileSync(join(root, page), 'utf8');
  for (const block of text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)) {
    const above = text.slice(0, block.index).split('\n').length;
    writeFileSync(join(folder, `${basename(page)}.${above + 1}.ts`), '\n'.repeat(above) + block[1]);
    count++;
  }
}
if (count === 0) throw new Error(`Expected examples in ${pages.join(', ')}`);

// 'spkv/ops' is lib/ops.ts, as package.json has it.
const { name, exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const source = (file) => file.replace(/^\.\/dist\//, '../../lib/').replace(/\.d\.ts$/, '.ts');
const paths = Object.fromEntries(
  Object.entries(exports).flatMap(([entry, { types }]) => (types ? [[entry.replace(/^\./, name), [source(types)]]] : [])),
);
const config = { extends: '../../tsconfig.json', compilerOptions: { paths, types: ['node'] }, include: ['*.ts'], exclude: [] };
writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(config, undefined, 2));
const { status } = spawnSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', folder], { cwd: root, stdio: 'inherit' });
process.exit(status ?? 1);
