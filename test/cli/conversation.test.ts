import { Conversation } from '../../lib/cli/conversation.js';
import type { ChatMessage } from '../../lib/index.js';

const EOS = 4;

/** A model whose tokens are bytes, with 4 as the end of a turn. */
function fakeModel(render: (messages: readonly ChatMessage[]) => string) {
  const encode = (text: string) => [...Buffer.from(text)];
  return {
    config: { eosTokenIds: [EOS] },
    tokenizer: { encode, decode: (ids: readonly number[]) => Buffer.from(ids).toString() },
    chatTemplate: { apply: render },
    encodeChat: (messages: readonly ChatMessage[]) => encode(render(messages)),
  } as unknown as ConstructorParameters<typeof Conversation>[0];
}

const turns = (messages: readonly ChatMessage[]) => `${messages.map(({ role, content }) => `${role[0]}:${content}\u0004`).join('')}a:`;
const text = (ids: readonly number[]) => Buffer.from(ids).toString();

test('a prompt continues what the model has read and written', () => {
  const conversation = new Conversation(fakeModel(turns), 'Be brief');
  const first = conversation.ask('Hi');
  expect(text(first)).toBe('s:Be brief\u0004u:Hi\u0004a:');
  const written = [...Buffer.from('Hello'), EOS];
  conversation.answered(first, { text: 'Hello', ids: written });
  const second = conversation.ask('More');
  expect(text(second)).toBe('s:Be brief\u0004u:Hi\u0004a:Hello\u0004u:More\u0004a:');
  expect(second.slice(0, first.length + written.length)).toEqual([...first, ...written]);
  expect(conversation.turns).toBe(2);
});

test('an answer that the template rewrites is read again', () => {
  const trimming = (messages: readonly ChatMessage[]) => turns(messages.map(({ role, content }) => ({ role, content: content.trim() })));
  const conversation = new Conversation(fakeModel(trimming));
  const first = conversation.ask('Hi');
  conversation.answered(first, { text: ' Hello ', ids: [...Buffer.from(' Hello '), EOS] });
  expect(text(conversation.ask('More'))).toBe('u:Hi\u0004a:Hello\u0004u:More\u0004a:');
});

test('an answer cut at a stop text is read again without it', () => {
  const conversation = new Conversation(fakeModel(turns));
  const first = conversation.ask('Hi');
  conversation.answered(first, { text: 'Hel', ids: [...Buffer.from('Hello')] });
  expect(text(conversation.ask('More'))).toBe('u:Hi\u0004a:Hel\u0004u:More\u0004a:');
});

test('takeBack and reset', () => {
  const conversation = new Conversation(fakeModel(turns), 'S');
  conversation.ask('lost');
  conversation.takeBack();
  expect(text(conversation.ask('kept'))).toBe('s:S\u0004u:kept\u0004a:');
  conversation.reset();
  expect(conversation.turns).toBe(0);
  expect(text(conversation.ask('new'))).toBe('s:S\u0004u:new\u0004a:');
});
