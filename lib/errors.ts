/** Every way in which spkv refuses or fails, as found in {@link SpkvError.code}. */
export type ErrorCode =
  | 'INVALID_ARGUMENT' // an argument of the wrong type or value, an unknown option
  | 'SHAPE' // a tensor whose dimensions do not fit
  | 'DTYPE' // a tensor of an element type that the operation does not take
  | 'DEVICE' // tensors of different devices, or a device that is not there
  | 'DISPOSED' // a handle used after it was freed
  | 'OUT_OF_MEMORY' // the operating system or the device has no memory left
  | 'POOL_EXHAUSTED' // the cache pool has too few free pages; nothing was changed
  | 'NON_FINITE' // NaN or infinity where a number is needed
  | 'OUT_OF_RANGE' // a token id, position or count outside its range
  | 'ABORTED' // cancelled while enqueued work was still running
  | 'OVERLOADED' // too many requests wait already; come again later
  | 'DEADLINE' // a request has not ended in the time that it had
  | 'RANK' // a process of a data-parallel run is missing, has ended, or is of another run
  | 'FILE' // a missing, malformed, truncated or mismatched file
  | 'UNSUPPORTED' // valid, but not something that spkv honours
  | 'NATIVE' // a native library is missing or could not be loaded
  | 'ONNXRUNTIME' // onnxruntime refused or failed, in its own words
  | 'INTERNAL'; // a defect in spkv

/** The one error class of spkv. `code` is stable and meant for programs, `message` for people. */
export class SpkvError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }

  static {
    this.prototype.name = 'SpkvError';
  }
}
