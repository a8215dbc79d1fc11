// What `npm pack` would publish: everything that a user needs to build and run, and nothing else.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

const pack = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
if (pack.status !== 0) process.exit(1);
const [{ files, size, entryCount }] = JSON.parse(pack.stdout);
const paths = files.map((file) => file.path);
const tracked = spawnSync('git', ['ls-files', 'native', 'models', 'docs', 'bin', 'page'], { encoding: 'utf8' }).stdout.split('\n').filter(Boolean);
const { exports, bin } = JSON.parse(readFileSync('package.json', 'utf8'));
const entries = [...Object.values(exports).flatMap((entry) => (typeof entry === 'string' ? [entry] : Object.values(entry))), ...Object.values(bin)];

const needed = [
  ...tracked,
  ...entries.map((entry) => entry.replace(/^\.\//, '')),
  'package.json',
  'README.md',
  'LICENSE',
  'binding.gyp',
  'CMakeLists.txt',
  'scripts/build-cuda.mjs',
  'scripts/build-native.mjs',
  'scripts/interface.mjs',
  'scripts/sources.mjs',
];
const unwanted = /(^|\/)(node_modules|build[^/]*|test|\.ci)\/|\.(node|o|tgz)$/;
/** Where a page links to within the package; a folder is there when something in it is. */
const linksOf = (page) => [...readFileSync(page, 'utf8').matchAll(/\]\((?!https?:)([^)#\s]+)/g)].map(([, link]) => join(dirname(page), link));
const isPacked = (path) => paths.some((packed) => packed === path || packed.startsWith(`${path}/`));
const problems = [
  ...paths.filter((path) => path.endsWith('.md')).flatMap((page) => linksOf(page).filter((link) => !isPacked(link)).map((link) => `missing: ${link}, to which ${page} links`)),
  ...needed.filter((path) => !paths.includes(path)).map((path) => `missing: ${path}`),
  ...paths.filter((path) => unwanted.test(path) && !path.startsWith('prebuilds/')).map((path) => `unwanted: ${path}`),
];
for (const problem of problems) console.error(problem);
console.log(`${entryCount} files, ${(size / 2 ** 20).toFixed(1)} MiB packed`);
process.exit(problems.length === 0 ? 0 : 1);
