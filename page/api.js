// The server's API, as any client sees it.

/** An answer that is an error. */
export class ApiError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Of this page as long as it is open; kept nowhere else. */
let key = '';

/** @param {string} value */
export function setKey(value) {
  key = value.trim();
}

/**
 * @param {string} path
 * @param {RequestInit} [init]
 */
async function send(path, init = {}) {
  const headers = new Headers(init.headers);
  if (key !== '') headers.set('authorization', `Bearer ${key}`);
  const response = await fetch(path, { ...init, headers, cache: 'no-store' });
  if (!response.ok) throw new ApiError(response.status, await problem(response));
  return response;
}

/** @param {Response} response */
async function problem(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with status ${response.status}`;
  }
}

/** @param {string} path @param {AbortSignal} [signal] */
export async function get(path, signal) {
  return (await send(path, signal ? { signal } : {})).json();
}

/**
 * Posts a request and gives the events of its answer.
 * @param {string} path
 * @param {object} fields
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<any, void, void>}
 */
export async function* stream(path, fields, signal) {
  const response = await send(path, { method: 'POST', body: JSON.stringify(fields), headers: { 'content-type': 'application/json' }, signal });
  const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError(0, 'The connection ended before the answer did');
    const lines = (rest + value).split('\n\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const data = line.replace(/^data: /, '');
      if (data === '[DONE]') return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(0, event.error.message);
      yield event;
    }
  }
}
