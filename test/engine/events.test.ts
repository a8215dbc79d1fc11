import { EventBuffer, type TextEvent } from '../../lib/engine/events.js';

const event = (id: number, index = 0): TextEvent => ({ index, text: `${id} `, tokens: [{ id }], finishReason: undefined });

function bufferAndReads() {
  let reads = 0;
  const buffer = new EventBuffer(() => reads++, () => {});
  return { buffer, reads: () => reads };
}

/** Whether a promise has been settled, once everything else that can go on has done so. */
async function settled(promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  promise.then(() => (done = true), () => (done = true));
  await new Promise((resolve) => setImmediate(resolve));
  return done;
}

test('a reader that waits is woken when events are delivered, not before', async () => {
  const { buffer } = bufferAndReads();
  const next = buffer.next();
  buffer.push(event(1));
  expect(await settled(next)).toBe(false);
  buffer.deliver();
  expect(await next).toEqual({ value: event(1), done: false });
});

test('whoever asks takes what is there without a delivery, and readers are served in their order', async () => {
  const { buffer, reads } = bufferAndReads();
  buffer.push(event(1));
  expect(await buffer.next()).toEqual({ value: event(1), done: false });
  expect(reads()).toBe(1);
  const first = buffer.next();
  buffer.push(event(2));
  buffer.push(event(3, 1));
  expect(await buffer.next()).toEqual({ value: event(3, 1), done: false });
  expect(await first).toEqual({ value: event(2), done: false });
});

test('the end brings what has not been delivered', async () => {
  const { buffer } = bufferAndReads();
  const reads = [buffer.next(), buffer.next()];
  buffer.push(event(1));
  buffer.end({ error: new Error('over') });
  expect(await reads[0]).toEqual({ value: event(1), done: false });
  await expect(reads[1]).rejects.toThrow('over');
  expect(await buffer.next()).toEqual({ value: undefined, done: true });
});

test('a reader is behind by what it has not taken, unless it waits', async () => {
  const { buffer } = bufferAndReads();
  buffer.push(event(1));
  expect(buffer.unread).toBe(0); // nobody has begun
  await buffer.next();
  buffer.push(event(2));
  buffer.push(event(3));
  expect(buffer.unread).toBe(2);
  expect((await buffer.next()).value).toEqual({ index: 0, text: '2 3 ', tokens: [{ id: 2 }, { id: 3 }], finishReason: undefined });
  const next = buffer.next();
  buffer.push(event(4));
  expect(buffer.unread).toBe(0);
  buffer.deliver();
  await next;
  expect(buffer.unread).toBe(0);
});
