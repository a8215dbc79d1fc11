import type { SpkvError } from '../../errors.js';
import * as ops from '../../ops.js';
import type { Device, Tensor } from '../../ops.js';
import type { Group } from './group.js';

/** Sums of gradients over all ranks, beside the work of the device. All ranks make the same calls in the same order. */
export interface Reduction {
  /** Begins to replace x [N] by its sum over all ranks, as it is after what has been enqueued so far. */
  sum(x: Tensor): void;
  /** Resolves when what is enqueued from then on sees the sums. */
  join(): Promise<void>;
  /** Resolves when nothing is left of it. */
  dispose(): Promise<void>;
}

export type OpenReduction = (device: Device, group: Group) => Promise<Reduction>;

/** How often to look whether NCCL has noticed that something is wrong. */
const CHECK_MS = 1000;

/** Sums by NCCL. When the group fails they end, so that nothing waits for a rank that is gone. Errors: DEVICE, UNSUPPORTED, RANK. */
export const openNccl: OpenReduction = async (device, group) => {
  const own = group.rank === 0 ? Buffer.from(device.communicatorId()).toString('base64') : '';
  const [id] = await group.exchange('communicator', own);
  const communicator = device.communicator(Buffer.from(id!, 'base64'), group.rank, group.size);
  let open = true;
  group.onFailure(() => open && communicator.abort());
  const timer = setInterval(() => {
    try {
      communicator.check();
    } catch (error) {
      group.fail(error as SpkvError);
    }
  }, CHECK_MS).unref();
  const dispose = async () => {
    clearInterval(timer);
    open = false;
    await communicator.dispose();
  };
  try {
    await communicator.connect();
  } catch (error) {
    await dispose();
    throw error;
  }
  return { sum: (x) => ops.allReduce(communicator, x), join: async () => communicator.join(), dispose };
};
