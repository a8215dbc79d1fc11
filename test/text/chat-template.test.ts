import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { type ChatMessage, type ChatTemplate, type ChatTemplateOptions, loadChatTemplate } from '../../lib/text/chat-template.js';
import { expectError } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';
import { writeDirectory } from '../support/tokenizers.js';

const root = temporaryDirectory();
const load = (files: Record<string, unknown>) => loadChatTemplate(writeDirectory(root, files));

async function make(source: string, config: Record<string, unknown> = {}): Promise<ChatTemplate> {
  return (await load({ 'tokenizer_config.json': { ...config, chat_template: source } }))!;
}

const USER: ChatMessage = { role: 'user', content: ' Hi! ' };
const TURNS: ChatMessage[] = [{ role: 'system', content: 'Be brief.' }, USER, { role: 'assistant', content: 'Hello.' }, { role: 'user', content: 'Bye' }];

// Short forms of well-known templates, with the same features.
const LLAMA = `{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
`;

const QWEN = `{%- if tools %}
    {{- '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}
{%- endif %}
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}`;

const MISTRAL = `{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + '[/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}`;

test('Llama 3', async () => {
  const template = await make(LLAMA, { bos_token: { content: '<|begin_of_text|>' } });
  expect(template.apply(TURNS)).toBe(
    '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>' +
      '<|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>' +
      '<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>' +
      '<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>' +
      '<|start_header_id|>assistant<|end_header_id|>\n\n',
  );
  expect(template.apply([USER], { addGenerationPrompt: false })).toBe(
    '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>',
  );
});

test('Qwen', async () => {
  const template = await make(QWEN);
  const text = '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n Hi! <|im_end|>\n<|im_start|>assistant\n';
  expect(template.apply([USER])).toBe(text);
  expect(template.apply([USER], { extra: { enable_thinking: false } })).toBe(`${text}<think>\n\n</think>\n\n`);
  expect(template.apply([TURNS[0]!, USER], { addGenerationPrompt: false, extra: { tools: [{ name: 'f' }] } })).toBe(
    '<|im_start|>system\n[{"name": "f"}]<|im_end|>\n<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi! <|im_end|>\n',
  );
});

test('Mistral', async () => {
  const template = await make(MISTRAL, { bos_token: '<s>', eos_token: '</s>' });
  expect(template.apply(TURNS)).toBe('<s>[INST]  Hi! [/INST] Hello.</s>[INST] Be brief.\n\nBye[/INST]');
  await expectError(() => template.apply([USER, USER]), 'INVALID_ARGUMENT', /roles must alternate/, /tokenizer_config\.json/);
});

describe('where the template comes from', () => {
  test('chat_template.jinja goes before tokenizer_config.json, whose tokens it has', async () => {
    const config = { chat_template: 'config', bos_token: '<s>', pad_token: '<pad>', additional_special_tokens: ['<a>', { content: '<b>' }] };
    const source = '{{ bos_token }}{{ pad_token }}{{ additional_special_tokens | join }}{{ messages[0].content }}\n';
    const template = (await load({ 'chat_template.jinja': source, 'tokenizer_config.json': config }))!;
    expect(template.apply([USER])).toBe('<s><pad><a><b> Hi! ');
    expect(template.source).toBe(source);
    expect(template.path).toMatch(/chat_template\.jinja$/);
    expect((await load({ 'chat_template.jinja': '{{ bos_token }}{{ messages[0].content }}' }))!.apply([USER])).toBe(' Hi! ');
  });

  test('of several templates the default one', async () => {
    const several = [{ name: 'tool_use', template: 'tools' }, { name: 'default', template: 'plain' }];
    expect((await load({ 'tokenizer_config.json': { chat_template: several } }))!.apply([USER])).toBe('plain');
    expect(await load({ 'tokenizer_config.json': { chat_template: several.slice(0, 1) } })).toBeUndefined();
  });

  test('there may be none', async () => {
    expect(await load({})).toBeUndefined();
    expect(await load({ 'tokenizer_config.json': {} })).toBeUndefined();
    expect(await load({ 'tokenizer_config.json': { chat_template: null } })).toBeUndefined();
    expect(await loadChatTemplate(MODEL_DIR)).toBeUndefined();
  });

  test.each([
    [5, /a template or a list of them for chat_template, found 5/],
    [[5], /a name and a template for chat_template\[0\], found 5/],
    [[{ name: 'default' }], /a name and a template for chat_template\[0\]/],
  ])('refuses %j', async (chat_template, message) => {
    await expectError(() => load({ 'tokenizer_config.json': { chat_template } }), 'FILE', /tokenizer_config\.json/, message);
  });

  test('refuses a chat_template.jinja that is no file', async () => {
    const dir = writeDirectory(root, {});
    mkdirSync(join(dir, 'chat_template.jinja'));
    await expectError(() => loadChatTemplate(dir), 'FILE', /found a directory/);
  });
});

describe('errors of templates', () => {
  test.each(['{% if %}', '{{ a', '{% for x in y %}', '{{ "unclosed }}', '{% endfor %}', '{{ 1 + }}', '{% what %}'])('syntax: %s', async (source) => {
    const template = await make(source);
    await expectError(() => template.apply([USER]), 'FILE', /tokenizer_config\.json: expected a chat template in the Jinja language, found a syntax error \(.+\)/);
  });

  test.each([
    ["{{ raise_exception('Only text!') }}", /The chat template of .*tokenizer_config\.json cannot be applied to these messages \(Only text!\)/],
    ['{{ messages | unheard }}', /\(Unknown ArrayValue filter: unheard\)/],
    ['{{ nothing() }}', /cannot be applied/],
    ['{{ messages[0].content + none }}', /cannot be applied/],
  ])('rendering: %s', async (source, message) => {
    await expectError(async () => (await make(source)).apply([USER]), 'INVALID_ARGUMENT', message);
  });

  test('a damaged template works or is refused', async () => {
    const places = fc.array(fc.tuple(fc.nat(QWEN.length - 1), fc.constantFrom(...'{}%|-+()[]\'" .=a1')), { minLength: 1, maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(places, fc.nat(QWEN.length), fc.boolean(), async (changes, end, cut) => {
        const chars = [...QWEN];
        for (const [at, char] of changes) chars[at] = char;
        const template = await make(chars.slice(0, cut ? end : chars.length).join(''));
        try {
          expect(typeof template.apply(TURNS)).toBe('string');
        } catch (error) {
          expect(error).toMatchObject({ name: 'SpkvError', code: expect.stringMatching(/^(FILE|INVALID_ARGUMENT)$/) });
        }
      }),
      { numRuns: 300 },
    );
  });
});

test('templates see tools and documents as none', async () => {
  const template = await make('{{ tools is none }}{{ documents is none }}{{ other is defined }}');
  expect(template.apply([USER])).toBe('truetruefalse');
});

test('further members of a message reach the template, and nothing of it is changed', async () => {
  const template = await make('{{ messages[0].name }}{% set _ = messages[0].update({"role": "x"}) if false %}');
  const message = Object.freeze({ ...USER, name: 'Ada' });
  expect(template.apply([message])).toBe('Ada');
});

test.each([
  [undefined, /at least one message/],
  [[], /at least one message for messages but received an array of 0/],
  [[null], /messages\[0\]/],
  [[USER, 'hi'], /an object with role and content for messages\[1\] but received "hi"/],
  [[{ content: 'hi' }], /a string for messages\[0\]\.role but received undefined/],
  [[{ role: 'user', content: ['hi'] }], /a string for messages\[0\]\.content but received an array of 1/],
])('refuses the messages %j', async (messages, message) => {
  const template = await make(LLAMA);
  await expectError(() => template.apply(messages as never), 'INVALID_ARGUMENT', message);
});

test.each([
  [{ addGenerationPromt: true }, /did you mean "addGenerationPrompt"/],
  [{ addGenerationPrompt: 1 }, /true or false for addGenerationPrompt/],
  [{ extra: [] }, /an object for extra/],
  [{ extra: { messages: [] } }, /extra cannot hold messages/],
  [{ extra: { add_generation_prompt: true } }, /extra cannot hold add_generation_prompt/],
])('refuses the options %j', async (options, message) => {
  const template = await make(LLAMA);
  await expectError(() => template.apply([USER], options as ChatTemplateOptions), 'INVALID_ARGUMENT', message);
});
