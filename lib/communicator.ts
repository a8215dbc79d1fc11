import { type CommunicatorHandle, native, settle } from './native.js';

/**
 * One rank among those that compute together, see {@link Device.communicator}. Sums run beside the work of the device:
 * `ops.allReduce` begins one, and what is enqueued after {@link join} sees it. All ranks make the same calls in the
 * same order.
 */
export class Communicator {
  readonly #handle: CommunicatorHandle;

  /** @internal */
  constructor(handle: CommunicatorHandle) {
    this.#handle = handle;
  }

  /** @internal */
  get handle(): CommunicatorHandle {
    return this.#handle;
  }

  /** Resolves when all ranks have come. Errors: RANK with NCCL's words, ABORTED. */
  async connect(): Promise<void> {
    return settle(native().connectCommunicator(this.#handle));
  }

  /** Enqueues waiting for the sums that have begun. */
  join(): void {
    native().joinReductions(this.#handle);
  }

  /** Throws what has gone wrong with the sums that are under way, if anything has. Errors: RANK. */
  check(): void {
    native().communicatorFailure(this.#handle);
  }

  /** Gives up, since a rank is gone: what waits for it ends, with arbitrary sums. */
  abort(): void {
    native().abortCommunicator(this.#handle);
  }

  /** Resolves when everything that was enqueued before has run and the communicator has ended. */
  async dispose(): Promise<void> {
    return settle(native().disposeCommunicator(this.#handle));
  }
}
