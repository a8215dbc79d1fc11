import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Constraint, Engine, type JsonSchema, loadModel, type StepRecord, type TextModel } from '../../lib/index.js';
import { printTable, range, shown } from '../harness.js';
import { randomLlama } from '../peers/random-llama.js';
import { quiet } from '../quiet.js';
import { summarize } from '../summary.js';
import { MODEL, sampleText } from './bundled.js';
import type { Result, Settings } from './suite.js';

const SOURCES = fileURLToPath(new URL('../../lib', import.meta.url));
const VOCABULARY = 128_000;
const NEW_TOKENS = 120;
/** Most that a constraint may cost. */
const TARGET = 0.9;

/** An object of so many members that no text comes to its end. */
const SCHEMA: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: Object.fromEntries(
    Array.from({ length: 60 }, (_, i) => [
      `member${i}`,
      [
        { type: 'string', minLength: 4, maxLength: 12 }, { type: 'integer', minimum: 1000, maximum: 9999 }, { enum: ['first', 'second', 'third'] },
        { type: 'array', items: { type: 'object', properties: { name: { type: 'string', minLength: 2, maxLength: 6 }, fine: { type: 'boolean' } }, required: ['name', 'fine'] }, minItems: 1, maxItems: 2 },
        { type: 'string', pattern: '^[a-z]{3,8}-[0-9]{2}$' },
      ][i % 5],
    ]),
  ),
  required: Array.from({ length: 60 }, (_, i) => `member${i}`),
};

/** Texts that are written within a JSON schema beside the same number that are not: what constraints cost. */
export async function constraintsSuite({ device, repeats }: Settings): Promise<Result[]> {
  const results: Result[] = [];
  for (const [name, dir] of [['code-6m-spkv, 320 tokens', MODEL], [`random weights, ${VOCABULARY.toLocaleString('en-US')} tokens`, largeVocabulary()]] as const) {
    const model = await loadModel(dir, { device });
    const start = performance.now();
    const constraint = await model.constrain({ jsonSchema: SCHEMA });
    console.log(`${name}: the constraint was made in ${shown(performance.now() - start)} ms`);
    for (const texts of [1, 8, 32]) {
      await quiet();
      // In turn, so that a disturbance hits both alike. The first round finds what the states of the constraint allow.
      const rates = { free: [] as number[], constrained: [] as number[] };
      for (let round = 0; round <= repeats; round++) {
        rates.free.push(await writing(model, texts, undefined));
        rates.constrained.push(await writing(model, texts, constraint));
      }
      const [first] = rates.constrained;
      const [free, constrained] = [summarize(rates.free.slice(1)), summarize(rates.constrained.slice(1))];
      results.push({
        work: `${name}, ${texts} texts`, unit: 'tokens/s', spkv: constrained, peer: { name: 'without a constraint', value: free },
        ratio: constrained.median / free.median, target: TARGET, notes: { firstRound: first },
      });
    }
    model.dispose();
  }
  printTable(
    'Writing within a JSON schema',
    ['work', 'unit', 'within', 'without', 'ratio', 'to reach'],
    results.map(({ work, unit, spkv, peer, ratio, target }) => [work, unit, range(spkv), range(peer!.value), ratio, target]),
  );
  return results;
}

/** Tokens per second of the steps in which all texts are being written. */
async function writing(model: TextModel, texts: number, constraint: Constraint | undefined): Promise<number> {
  const times: number[] = [];
  const onStep = ({ written, read }: StepRecord) => {
    if (written === texts && read === 0) times.push(performance.now());
  };
  const engine = new Engine(model, { maxSequences: texts, reuse: 'none', onStep });
  const bytes = sampleText(1000);
  const requests = Array.from({ length: texts }, (_, seed) => {
    const prompt = Array.from({ length: 64 }, (__, i) => bytes[(seed * 97 + i) % bytes.length]!);
    return engine.generate(prompt, { maxTokens: NEW_TOKENS + texts, temperature: 1, seed, ...(constraint ? { constraint } : { ignoreEos: true }) });
  });
  const results = await Promise.all(requests.map(({ result }) => result));
  await engine.close();
  if (results.some(({ choices }) => choices[0]!.finishReason !== 'length')) throw new Error('A text has come to its end');
  return (1000 * texts * (times.length - 1)) / (times.at(-1)! - times[0]!);
}

/** A small model whose tokens are all bytes and the substrings that are most frequent in the sources of spkv. */
function largeVocabulary(): string {
  const dir = randomLlama({ hidden: 256, layers: 6, heads: 4, kvHeads: 2, ffn: 704, vocabulary: VOCABULARY, context: 2048, density: 0.5, predictorHidden: 64 });
  const path = join(dir, 'tokenizer.json');
  if (!existsSync(path)) writeFileSync(path, JSON.stringify(tokenizer()));
  return dir;
}

function tokenizer(): object {
  const counts = new Map<string, number>();
  const files = readdirSync(SOURCES, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts')).sort();
  for (const name of files) {
    const text = readFileSync(join(SOURCES, name), 'utf8').replaceAll(/[^\n -~]/g, '');
    for (let i = 0; i < text.length; i++) {
      for (let length = 2; length <= 8; length++) {
        const part = text.slice(i, i + length);
        counts.set(part, (counts.get(part) ?? 0) + 1);
      }
    }
  }
  // The characters that byte-level tokenizers write for bytes: a printable one for itself, the others from U+0100 on.
  const printable = (byte: number) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  const others = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !printable(byte));
  const characters = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : 0x100 + others.indexOf(byte)));
  const parts = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, VOCABULARY - 256).map(([part]) => Array.from(part, (char) => characters[char.charCodeAt(0)]!).join(''));
  return {
    version: '1.0', truncation: null, padding: null, added_tokens: [], normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }, post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
    model: { type: 'BPE', vocab: Object.fromEntries([...characters, ...parts].map((token, id) => [token, id])), merges: [], unk_token: null, byte_fallback: false },
  };
}
