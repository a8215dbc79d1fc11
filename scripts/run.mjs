// `npm start`, `npm test`, `npm run test:browser`, `npm run bench` and `npm run build`: sets up what is missing or stale, then runs.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from './chromium.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const [command, ...rest] = process.argv.slice(2);

function run(program, args, env = {}) {
  const result = spawnSync(program, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } });
  if (result.error) throw result.error;
  if (result.status !== 0) process.exit(result.status ?? 1);
}

const node = (script, args, env) => run(process.execPath, [join(root, 'node_modules', script), ...args], env);

function jest(args) {
  node('jest/bin/jest.js', args, {
    NODE_OPTIONS: `${process.env.NODE_OPTIONS ?? ''} --experimental-vm-modules --expose-gc --no-warnings=ExperimentalWarning`.trim(),
  });
}

async function ensureNative() {
  const { buildNative, isStale } = await import('./build-native.mjs');
  if (!isStale()) return;
  console.error('Building the native library (about a minute) ...');
  try {
    buildNative({ quiet: true });
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}

function newest(folder) {
  const times = readdirSync(join(root, folder), { recursive: true }).map((name) => statSync(join(root, folder, name)).mtimeMs);
  return Math.max(0, ...times);
}

function ensureDist() {
  if (existsSync(join(root, 'dist/index.js')) && newest('dist') > newest('lib')) return;
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  node('typescript/bin/tsc', ['-p', 'tsconfig.build.json']);
}

if (!existsSync(join(root, 'node_modules/tsx'))) {
  console.error('Installing dependencies ...');
  run(process.platform === 'win32' ? 'npm.cmd' : 'npm', ['ci', '--no-audit', '--no-fund']);
}
await ensureNative();

switch (command) {
  case 'build':
    ensureDist();
    break;
  case 'start':
    ensureDist(); // so that the library and `npx spkv` can be used afterwards
    run(process.execPath, [join(root, 'bin/spkv.js'), 'demo', ...rest]);
    break;
  case 'bench':
    node('tsx/dist/cli.mjs', ['bench/main.ts', ...rest]);
    break;
  case 'test':
    ensureDist(); // the server's process is tested as users start it
    jest(rest);
    break;
  case 'test:browser':
    if (!chromium()) {
      console.error('No Chromium found: install one (on Debian and Ubuntu: apt-get install chromium), or name one in SPKV_CHROMIUM.');
      process.exit(1);
    }
    jest(['--config', 'jest.browser.config.mjs', ...rest]);
    break;
  default:
    console.error('Usage: node scripts/run.mjs start|build|test|test:browser|bench');
    process.exit(2);
}
