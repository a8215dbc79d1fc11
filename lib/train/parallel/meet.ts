import { Alone, type Group } from './group.js';
import { Hub } from './hub.js';
import type { Ranks } from './ranks.js';
import { Spoke } from './spoke.js';

/** The group of a process: it waits until all ranks have come to rank 0. Errors: RANK. */
export async function meet(ranks: Ranks | undefined): Promise<Group> {
  if (!ranks || ranks.size === 1) return new Alone();
  const invitation = { run: '', patience: 300, silence: 120, ...ranks };
  return ranks.rank === 0 ? Hub.open(invitation) : Spoke.open(invitation);
}
