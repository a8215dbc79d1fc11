import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { CacheReport, GenerationResult } from '../../lib/index.js';
import { jsonLines, spkv } from '../support/cli.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';

/** The golden model with a chat template, by which turns are comments. */
const dir = temporaryDirectory();
for (const name of ['config.json', 'model.safetensors', 'tokenizer.json']) symlinkSync(join(MODEL_DIR, name), join(dir, name));
const TEMPLATE = "{% for m in messages %}# {{ m.role }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}# assistant:{% endif %}";
writeFileSync(join(dir, 'tokenizer_config.json'), JSON.stringify({ chat_template: TEMPLATE }));

const chat = (stdin: string, ...args: string[]) => spkv(['chat', '--model', dir, '--stop', '\n', '-n', '30', ...args], { stdin });
type Turn = GenerationResult & { user: string };

test('one turn per line; later turns read only what is new', async () => {
  const result = await chat('Hello\n\nWhat now?\n', '--json', '--system', 'Be brief');
  expect({ code: result.code, stderr: result.stderr }).toEqual({ code: 0, stderr: '' });
  const [first, second, ...rest] = jsonLines<Turn>(result);
  expect(rest).toEqual([]);
  expect(first).toMatchObject({ user: 'Hello', usage: { promptTokens: '# system:Be brief\n# user:Hello\n# assistant:'.length, cachedTokens: 0 } });
  expect(second!.user).toBe('What now?');
  expect(second!.usage.cachedTokens).toBeGreaterThanOrEqual(first!.usage.promptTokens);
});

test('the text of answers goes to stdout; /stats, /reset and /exit', async () => {
  const { code, stdout, stderr } = await chat('Hello\n/stats\n/reset\n/stats\n/nonsense\n/exit\nnever\n');
  expect(code).toBe(0);
  expect(stdout.split('\n')).toHaveLength(2);
  expect(stderr).toMatch(/1 turn, \d+ tokens; cache at τ 0\.5/);
  expect(stderr).toContain('The cache is empty.');
  expect(stderr).toContain('There is no command /nonsense');
});

test('/stats --json', async () => {
  const result = await chat('Hello\n/stats\n', '--json', '--threshold', '0.7');
  const [, { stats }] = jsonLines<{ stats: CacheReport }>(result) as [unknown, { stats: CacheReport }];
  expect(stats).toMatchObject({ threshold: 0.7, window: 128 });
});

test('a model without a chat template is refused', async () => {
  const { code, stderr } = await spkv(['chat'], { stdin: 'Hello\n' });
  expect(code).toBe(1);
  expect(stderr).toMatch(/^spkv: UNSUPPORTED: .*has no chat template.*"spkv generate"/);
});
