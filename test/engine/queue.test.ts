import { Queue } from '../../lib/engine/queue.js';
import type { Choice } from '../../lib/engine/choice.js';

let numbers = 0;
/** As much of a choice as the queue looks at. */
function waiting({ client = '', priority = 0, tokens = 10, arrival = 0, begun = false } = {}): Choice {
  const options = { client, priority, ids: new Array(tokens).fill(1), n: 1, maxTokens: 0 };
  return { index: 0, request: { options, arrival, begun, number: numbers++ } } as unknown as Choice;
}

/** The order in which they get their places. */
function order(queue: Queue, now = 0): Choice[] {
  const taken: Choice[] = [];
  for (let choice = queue.first(now); choice; choice = queue.first(now)) {
    queue.take(choice);
    taken.push(choice);
  }
  return taken;
}

function queueOf(...choices: Choice[]): Queue {
  const queue = new Queue();
  for (const choice of choices) queue.add(choice);
  return queue;
}

test('the order of arrival, where nothing else is said', () => {
  const [a, b, c] = [waiting(), waiting(), waiting()];
  expect(order(queueOf(a, b, c))).toEqual([a, b, c]);
});

test('the higher priority goes first, but a long wait counts as one', () => {
  const [low, high] = [waiting({ arrival: 0 }), waiting({ priority: 1, arrival: 9000 })];
  expect(order(queueOf(low, high), 9500)).toEqual([high, low]);
  expect(order(queueOf(low, high), 15_000)).toEqual([low, high]);
});

test('what has been begun goes before what has not', () => {
  const [fresh, begun] = [waiting(), waiting({ begun: true })];
  expect(order(queueOf(fresh, begun))).toEqual([begun, fresh]);
});

test('clients are served in turn, by tokens', () => {
  const flood = Array.from({ length: 4 }, () => waiting({ client: 'flood', tokens: 100 }));
  const few = Array.from({ length: 2 }, () => waiting({ client: 'few', tokens: 50 }));
  expect(order(queueOf(...flood, ...few))).toEqual([flood[0], few[0], few[1], flood[1], flood[2], flood[3]]);
});

test('a client that comes late has saved up nothing', () => {
  const queue = queueOf(...Array.from({ length: 3 }, () => waiting({ client: 'early', tokens: 100 })));
  order(queue);
  const late = Array.from({ length: 3 }, () => waiting({ client: 'late', tokens: 100 }));
  const early = waiting({ client: 'early', tokens: 100 });
  for (const choice of [...late, early]) queue.add(choice);
  expect(order(queue).indexOf(early)).toBeLessThan(3);
});

test('one that is not able is passed over', () => {
  const [a, b] = [waiting(), waiting()];
  const queue = queueOf(a, b);
  expect(queue.first(0, (choice) => choice !== a)).toBe(b);
  queue.remove(b);
  expect(queue.first(0, (choice) => choice !== a)).toBeUndefined();
  expect(queue.size).toBe(1);
});
