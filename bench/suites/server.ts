import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { loadModel } from '../../lib/index.js';
import { uniform as random } from '../../lib/random.js';
import { printTable, shown } from '../harness.js';
import { addressOf, load } from '../load.js';
import { quiet } from '../quiet.js';
import { summarize } from '../summary.js';
import { MODEL, sampleText } from './bundled.js';
import type { Result, Settings } from './suite.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const CLIENTS = 64;
const QUESTIONS = 48;
const PAUSE_MS = 500;

/** `spkv serve` in a process of its own, and 64 clients that ask at random times; `repeats` counts seconds by ten. */
export async function serverSuite({ device, repeats }: Settings): Promise<Result[]> {
  const questions = await makeQuestions(device.name);
  await quiet();
  const server = spawn(process.execPath, ['--import', 'tsx', 'lib/cli/main.ts', 'serve', '--port', '0', '--device', device.name, '--log-level', 'warn', '--kv-memory', '256M'], {
    cwd: ROOT, stdio: ['ignore', 'inherit', 'pipe'],
  });
  const exited = once(server, 'exit');
  const url = await addressOf(server.stderr);
  const uniform = random(1);
  const seconds = 10 * repeats;
  const before = await metrics(url);
  const end = performance.now() + 1000 * seconds;
  const { answers, tokens, firstToken, perToken, errors } = await load({ url, clients: CLIENTS, more: () => performance.now() < end, pauseMilliseconds: PAUSE_MS, questions, uniform });
  const after = await metrics(url);
  server.kill('SIGTERM');
  const [code] = await exited;
  const held = after('spkv_pool_pages{state="used"}') - after('spkv_prefix_pages');
  if (errors.length > 0 || code !== 0 || held > 0) {
    throw new Error(`${errors.length} of ${answers + errors.length} answers were wrong or missing, ${held} pages were not given back, exit code ${code}; first: ${errors[0]}`);
  }
  const percentiles = (values: number[]) => Object.fromEntries([50, 90, 99, 99.9].map((p) => [`p${p}`, percentile(values, p)]));
  const loopDelay = after('spkv_event_loop_delay_seconds{quantile="1"}') * 1000;
  const notes = { answers, errors: errors.length, firstTokenMilliseconds: percentiles(firstToken), perTokenMilliseconds: percentiles(perToken), longestLoopDelayMilliseconds: loopDelay,
    preemptions: after('spkv_preemptions_total{kind="saved"}') + after('spkv_preemptions_total{kind="dropped"}'), prefixHits: after('spkv_prefix_hits_total') - before('spkv_prefix_hits_total') };
  printTable(
    `Server, code-6m-spkv, ${CLIENTS} clients for ${seconds} s: ${answers} answers, no error, ${shown(tokens / seconds)} tokens/s; longest delay of a 1 ms timer ${shown(loopDelay)} ms`,
    ['milliseconds', 'p50', 'p90', 'p99', 'p99.9'],
    [['to the first token', ...Object.values(percentiles(firstToken))], ['per token', ...Object.values(percentiles(perToken))]],
  );
  return [{ work: `${CLIENTS} clients, ${seconds} s`, unit: 'tokens/s', spkv: summarize([tokens / seconds]), notes }];
}

/** Texts of the bundled sample, cut at random, with what the model writes after them by itself. */
async function makeQuestions(device: string): Promise<{ fields: object; text: string }[]> {
  const model = await loadModel(MODEL, { device, kvMemory: 64 << 20 });
  const uniform = random(2);
  const source = Buffer.from(sampleText(3000)).toString('latin1').replaceAll(/[^\x20-\x7e\n]/g, '?');
  const questions = [];
  for (let i = 0; i < QUESTIONS; i++) {
    const from = Math.floor(uniform() * 1500);
    const prompt = source.slice(from, from + 20 + Math.floor(uniform() * (i % 4 === 0 ? 1400 : 300)));
    const [maxTokens, temperature, seed] = [8 + Math.floor(uniform() * 120), i % 2 === 0 ? 0 : 0.8, i];
    const text = await model.generate(prompt, { maxTokens, temperature, seed, ignoreEos: true }).text();
    questions.push({ fields: { model: 'code-6m-spkv', prompt, max_tokens: maxTokens, temperature, seed, ignore_eos: true }, text });
  }
  model.dispose();
  return questions;
}

async function metrics(url: string): Promise<(name: string) => number> {
  const lines = (await (await fetch(`${url}/metrics`)).text()).split('\n');
  return (name) => {
    const line = lines.find((text) => text.startsWith(`${name} `));
    if (line === undefined) throw new Error(`/metrics has no ${name}`);
    return Number(line.slice(name.length + 1));
  };
}

function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor((share / 100) * sorted.length))] ?? NaN;
}
