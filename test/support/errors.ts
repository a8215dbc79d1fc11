import { SpkvError, type ErrorCode } from '../../lib/errors.js';

/** Runs `action` and returns the SpkvError it fails with; fails the test if it does anything else. */
export async function errorOf(action: () => unknown): Promise<SpkvError> {
  let result: unknown;
  try {
    result = await action();
  } catch (error) {
    if (error instanceof SpkvError) return error;
    throw new Error(`expected a SpkvError, got ${String(error)}`, { cause: error });
  }
  throw new Error(`expected a SpkvError, got the result ${String(result)}`);
}

/** Expects `action` to fail with `code` and a message that holds every one of `parts`. */
export async function expectError(action: () => unknown, code: ErrorCode, ...parts: (string | RegExp)[]): Promise<void> {
  const error = await errorOf(action);
  expect({ code: error.code, message: error.message }).toEqual({ code, message: expect.any(String) });
  for (const part of parts) expect(error.message).toMatch(part);
}

/** True if `action` succeeds or fails as a damaged file may: with a SpkvError of code FILE or UNSUPPORTED. */
export async function survives(action: () => unknown): Promise<boolean> {
  try {
    await action();
    return true;
  } catch (error) {
    if (error instanceof SpkvError && (error.code === 'FILE' || error.code === 'UNSUPPORTED')) return true;
    throw error;
  }
}
