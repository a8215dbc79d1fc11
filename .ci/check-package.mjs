// What `npm pack` would publish: everything that a user needs to build and run, and nothing else.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

const pack = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
if (pack.status !== 0) process.exit(1);
const [{ files, size, entryCount }] = JSON.parse(pack.stdout);
const paths = files.map((file) => file.path);
const tracked = spawnSync('git', ['ls-files', 'native', 'models', 'bin', 'page'], { encoding: 'utf8' }).stdout.split('\n').filter(Boolean);
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
const problems = [
  ...needed.filter((path) => !paths.includes(path)).map((path) => `missing: ${path}`),
  ...paths.filter((path) => unwanted.test(path) && !path.startsWith('prebuilds/')).map((path) => `unwanted: ${path}`),
];
for (const problem of problems) console.error(problem);
console.log(`${entryCount} files, ${(size / 2 ** 20).toFixed(1)} MiB packed`);
process.exit(problems.length === 0 ? 0 : 1);
