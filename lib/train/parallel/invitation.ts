import { isInteger } from '../../check.js';
import { packageVersion } from '../../version.js';
import type { Ranks } from './ranks.js';
import type { Message } from './wire.js';

/** Where ranks meet, with nothing left open. */
export type Invitation = Required<Ranks>;

export type Hello = Extract<Message, { kind: 'hello' }>;

export function helloOf({ rank, size, run }: Invitation): Hello {
  return { kind: 'hello', version: packageVersion(), run, rank, size };
}

/** In what one who comes differs from rank 0, as a sentence; undefined where they are of one run. */
export function difference(hello: Hello, invitation: Invitation): string | undefined {
  const own = helloOf(invitation);
  for (const [name, what] of [['version', 'version of spkv'], ['size', 'number of ranks'], ['run', 'run']] as const) {
    if (hello[name] === own[name]) continue;
    const [here, there] = [own[name], hello[name]].map((value) => JSON.stringify(value));
    return `Rank ${hello.rank} does not belong to rank 0: its ${what} is ${there}, that of rank 0 is ${here}`;
  }
  return isInteger(hello.rank, 1, own.size - 1) ? undefined : `Expected a rank from 1 to ${own.size - 1} but one came that says it is ${JSON.stringify(hello.rank)}`;
}
