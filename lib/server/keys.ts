import { createHash, timingSafeEqual } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { ApiError } from './api-error.js';

/** Checks the keys that requests bring. */
export class Keys {
  readonly #digests: readonly Buffer[];

  constructor(keys: readonly string[]) {
    this.#digests = keys.map(digest);
  }

  /**
   * Who asks, for taking turns: which of the keys it is, or the address where there are none. Errors: 401.
   * All keys are compared, by digests of one length, so that the time tells nothing of them.
   */
  client({ headers, ip }: FastifyRequest): string {
    if (this.#digests.length === 0) return ip;
    const given = /^Bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1];
    if (given === undefined) throw new ApiError(401, 'Expected an API key in the header "Authorization: Bearer KEY"', { code: 'missing_api_key' });
    let found = -1;
    for (const [i, known] of this.#digests.entries()) if (timingSafeEqual(known, digest(given))) found = i;
    if (found < 0) throw new ApiError(401, 'The API key is not one of this server\'s', { code: 'invalid_api_key' });
    return `key ${found}`;
  }
}

function digest(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}
