import type { Tokenizer } from '../../text/tokenizer.js';

/**
 * The tokens before and after every document that is text. It begins as a prompt does, and ends with the end of text,
 * unless that is the very token with which the next one begins.
 */
export function documentBounds(
  tokenizer: Pick<Tokenizer, 'encode' | 'bosTokenId' | 'eosTokenId'> | undefined, eosTokenIds: readonly number[],
): { documentStart: number[]; documentEnd: number[] } {
  const end = tokenizer?.eosTokenId ?? eosTokenIds[0];
  const first = tokenizer?.encode('')[0];
  // Some tokenizers add only an end; that is none of a beginning.
  const begins = first !== undefined && (first !== end || first === tokenizer!.bosTokenId);
  return { documentStart: begins ? [first] : [], documentEnd: end === undefined || (begins && end === first) ? [] : [end] };
}
