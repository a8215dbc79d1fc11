import { type ErrorCode, SpkvError } from '../errors.js';

/** An answer that is an error, in the shape that OpenAI's API gives it: what clients make exceptions of. */
export class ApiError extends Error {
  readonly status: number;
  /** The field of the request that is wrong. */
  readonly param: string | null;
  readonly code: string | null;

  constructor(status: number, message: string, { param = null, code = null, cause }: { param?: string | null; code?: string | null; cause?: unknown } = {}) {
    super(message, { cause });
    this.status = status;
    this.param = param;
    this.code = code;
  }

  get type(): string {
    if (this.status === 401) return 'authentication_error';
    if (this.status === 403) return 'permission_error';
    if (this.status === 429) return 'rate_limit_error';
    return this.status >= 500 ? 'server_error' : 'invalid_request_error';
  }

  get body(): { error: { message: string; type: string; param: string | null; code: string | null } } {
    const { message, type, param, code } = this;
    return { error: { message, type, param, code } };
  }
}

/** What the failures of spkv are to a client. All others are the server's own, and are not described to it. */
const STATUS: Partial<Record<ErrorCode, [status: number, code: string | null]>> = {
  INVALID_ARGUMENT: [400, null],
  UNSUPPORTED: [400, 'unsupported'],
  OUT_OF_RANGE: [400, 'out_of_range'],
  // Not one that waits would help: the engine has made all the room there is.
  POOL_EXHAUSTED: [400, 'context_length_exceeded'],
  OVERLOADED: [429, 'overloaded'],
  DISPOSED: [503, 'shutting_down'],
  ABORTED: [503, 'shutting_down'],
  DEADLINE: [504, 'timeout'],
};

/**
 * Any error as an answer; of one that says nothing to a client the text is left to the log. `param` is the field that is
 * to blame if it is the request's fault.
 */
export function apiError(error: unknown, param: string | null = null): ApiError {
  if (error instanceof ApiError) return error;
  const known = error instanceof SpkvError ? STATUS[error.code] : undefined;
  if (known) {
    const [status, code] = known;
    return new ApiError(status, (error as SpkvError).message, { param: status === 400 ? param : null, code, cause: error });
  }
  return httpError(error) ?? new ApiError(500, 'The server failed to answer; its log has the reason under the id of this request', { cause: error });
}

/** What fastify refuses: bodies that are too large, or are not JSON. */
function httpError(error: unknown): ApiError | undefined {
  const { statusCode, code, message } = (error ?? {}) as { statusCode?: unknown; code?: unknown; message?: unknown };
  if (typeof statusCode !== 'number' || statusCode < 400 || statusCode > 499 || typeof message !== 'string') return undefined;
  if (statusCode === 415) return new ApiError(415, 'Expected the header "Content-Type: application/json"', { code: 'invalid_media_type', cause: error });
  const name = typeof code === 'string' ? code.replace(/^FST_(ERR_)?(CTP_)?/, '').toLowerCase() : null;
  return new ApiError(statusCode, message, { code: name, cause: error });
}
