import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { SpkvError } from '../../../lib/errors.js';
import { agree, Alone, type Group } from '../../../lib/train/parallel/group.js';
import { meet } from '../../../lib/train/parallel/meet.js';
import type { Ranks } from '../../../lib/train/parallel/ranks.js';
import { packageVersion } from '../../../lib/version.js';
import { errorOf, expectError } from '../../support/errors.js';
import { freePort } from '../../support/socket-reduction.js';

const groups: Group[] = [];
const sockets: Socket[] = [];
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await Promise.all(groups.splice(0).map((group) => group.close()));
});

const ranks = (rank: number, size: number, port: number, changes: Partial<Ranks> = {}): Ranks => ({
  rank, size, localRank: rank, address: '127.0.0.1', port, patience: 200, ...changes,
});

async function join(place: Ranks): Promise<Group> {
  const group = await meet(place);
  groups.push(group);
  return group;
}

async function together(size: number, changes: Partial<Ranks> = {}): Promise<Group[]> {
  const port = await freePort();
  return Promise.all(Array.from({ length: size }, (_, rank) => join(ranks(rank, size, port, changes))));
}

/** A connection that says `text` to rank 0, as soon as that listens. */
async function stranger(port: number, text: string): Promise<void> {
  for (;;) {
    const socket = connect({ host: '127.0.0.1', port });
    try {
      await once(socket, 'connect');
    } catch {
      await delay(20);
      continue;
    }
    sockets.push(socket.on('error', () => {}));
    return void socket.write(text);
  }
}

const hello = (rank: unknown): string => `${JSON.stringify({ kind: 'hello', version: packageVersion(), run: '', rank, size: 2 })}\n`;

test('a process alone has what it gives', async () => {
  const group = await meet(undefined);
  expect(group).toBeInstanceOf(Alone);
  expect(await group.exchange('a', 7)).toEqual([7]);
});

test('every rank gets the values of all in their order, whoever is late', async () => {
  const members = await together(4);
  expect(members.map(({ rank, size }) => [rank, size])).toEqual([[0, 4], [1, 4], [2, 4], [3, 4]]);
  for (let round = 0; round < 20; round++) {
    const late = members[round % 4]!;
    const values = members.filter((member) => member !== late).map((member) => member.exchange(`round ${round}`, { from: member.rank, round }));
    await new Promise(setImmediate);
    values.push(late.exchange(`round ${round}`, { from: late.rank, round }));
    const expected = members.map(({ rank }) => ({ from: rank, round }));
    for (const result of await Promise.all(values)) expect(result).toEqual(expected);
  }
});

test('a value may be large', async () => {
  const members = await together(2);
  const text = 'äö'.repeat(1 << 20);
  const [all] = await Promise.all(members.map((member) => member.exchange('text', text)));
  expect(all!.every((value) => value === text)).toBe(true);
});

test('what must be the same on all ranks is named where it differs', async () => {
  const members = await together(3);
  await Promise.all(members.map((member) => agree(member, 'settings', { seed: 1, list: [1, 2] })));
  const errors = await Promise.all(members.map((member) => errorOf(() => agree(member, 'settings', { seed: 1, learningRate: member.rank === 2 ? 0.5 : 1 }))));
  for (const { code, message } of errors) {
    expect({ code, message }).toEqual({ code: 'RANK', message: 'Expected the same learningRate on all ranks, found 1 on rank 0 and 0.5 on rank 2: they must be started alike, for one run' });
  }
});

test.each([0, 1, 2])('what rank %i fails with, all fail with', async (failing) => {
  const members = await together(3);
  const told: number[] = [];
  for (const member of members) member.onFailure(() => told.push(member.rank));
  const waiting = members.filter(({ rank }) => rank !== failing).map((member) => errorOf(() => member.exchange('step', null)));
  members[failing]!.fail(new SpkvError('NON_FINITE', 'Step 3: the loss is not finite'));
  for (const { code, message } of await Promise.all(waiting)) expect([code, message]).toEqual(['NON_FINITE', `Rank ${failing}: Step 3: the loss is not finite`]);
  expect(told.sort()).toEqual([0, 1, 2]);
  await expectError(() => members[failing]!.exchange('step', null), 'NON_FINITE');
});

test('ranks at different places are told so, instead of waiting', async () => {
  const members = await together(3);
  const errors = await Promise.all(members.map((member) => errorOf(() => member.exchange(member.rank === 2 ? 'validation' : 'step', null))));
  for (const { code, message } of errors) {
    expect(code).toBe('RANK');
    expect(message).toContain('Rank 2 is at "validation" and rank 0 at "step"');
  }
});

test.each([0, 1])('when rank %i leaves, an exchange that it should be in fails', async (leaving) => {
  const members = await together(3);
  await Promise.all(members.map((member) => member.exchange('last', null)));
  await members[leaving]!.close();
  const others = members.filter(({ rank }) => rank !== leaving);
  expect(others.map(({ failure }) => failure)).toEqual([undefined, undefined]);
  const errors = await Promise.all(others.map((member) => errorOf(() => member.exchange('more', null))));
  for (const { code, message } of errors) {
    expect(code).toBe('RANK');
    expect(message).toContain(`Rank ${leaving} of 3 has ended: it has left before the others`);
  }
});

describe('meeting', () => {
  test('a rank that does not come is named, by rank 0 and by those who wait', async () => {
    const port = await freePort();
    const errors = await Promise.all([0, 2].map((rank) => errorOf(() => meet(ranks(rank, 4, port, { patience: 2 })))));
    expect(errors[0]!.code).toBe('RANK');
    // Rank 2 may have come too late on a machine that stood still.
    expect(errors[0]!.message).toMatch(new RegExp(`^Expected 4 ranks within 2 s but ranks 1, (2, )?3 did not come: are they running, and can they reach 127\\.0\\.0\\.1:${port}\\?$`));
    expect(errors[1]!.code).toBe('RANK');
    expect(errors[1]!.message).toMatch(/did not come|did not say|has ended|could not be reached/);
  });

  test('a rank 0 that cannot be reached', async () => {
    const port = await freePort();
    await expectError(() => meet(ranks(1, 2, port, { patience: 0.5 })), 'RANK', `Rank 0 could not be reached at 127.0.0.1:${port} within 0.5 s (E`, /\((ECONNREFUSED|ETIMEDOUT)\)/, 'MASTER_PORT');
  });

  test('a port that is taken', async () => {
    const server = createServer();
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const { port } = server.address() as { port: number };
    await expectError(() => meet(ranks(0, 2, port)), 'RANK', `could not listen on port ${port}`, 'EADDRINUSE', 'MASTER_PORT');
    server.close();
  });

  test.each<[what: string, changes: Partial<Ranks>, part: string]>([
    ['of another size', { size: 3 }, 'its number of ranks is 3, that of rank 0 is 2'],
    ['of another run', { run: 'b' }, 'its run is "b", that of rank 0 is "a"'],
  ])('a rank %s is refused, and both say why', async (_, changes, part) => {
    const port = await freePort();
    const errors = await Promise.all([ranks(0, 2, port, { run: 'a' }), ranks(1, 2, port, { run: 'a', ...changes })].map((place) => errorOf(() => meet(place))));
    for (const { code, message } of errors) {
      expect(code).toBe('RANK');
      expect(message).toContain(part);
    }
  });

  test('two processes of one rank', async () => {
    const port = await freePort();
    const errors = await Promise.all([0, 1, 1].map((rank) => errorOf(() => meet(ranks(rank, 3, port)))));
    for (const { code, message } of errors) {
      expect(code).toBe('RANK');
      expect(message).toContain('two processes of rank 1');
    }
  });

  test('what does not speak the same is not listened to', async () => {
    const port = await freePort();
    const first = join(ranks(0, 2, port));
    for (const text of ['GET / HTTP/1.1\r\n\r\n', 'null\n', '{}\n', '{"kind":"value","topic":"step","value":1}\n', '7\n\n\n']) await stranger(port, text);
    const members = await Promise.all([first, join(ranks(1, 2, port))]);
    expect(await Promise.all(members.map((member) => member.exchange('a', member.rank)))).toEqual([[0, 1], [0, 1]]);
  });

  test('a hello of a rank that cannot be', async () => {
    const port = await freePort();
    const first = errorOf(() => meet(ranks(0, 2, port)));
    await stranger(port, hello('one'));
    expect(await first).toMatchObject({ code: 'RANK', message: 'Expected a rank from 1 to 1 but one came that says it is "one"' });
  });
});

test('a connection on which nothing is heard any more is taken for dead', async () => {
  const port = await freePort();
  const first = join(ranks(0, 2, port, { silence: 0.5 }));
  await stranger(port, hello(1)); // and then nothing
  await expectError(async () => (await first).exchange('step', null), 'RANK', 'Rank 1 of 2 has ended: there was no sign of life for 0.5 s');
});
