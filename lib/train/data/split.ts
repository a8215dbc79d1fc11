import { hash } from '../../random.js';
import type { TokenFile } from './token-file.js';

/** Tokens [start, end) of a token file that belong together: a document, or a part of one. */
export interface Span {
  start: number;
  end: number;
}

export interface Split {
  train: Span[];
  validation: Span[];
}

/**
 * Sets a share of the documents aside for validation: text files as a whole, single lines of JSONL files. Which
 * ones depends on their names alone, not on what else there is. At least one is set aside where there are two;
 * of a single document it is the end.
 */
export function splitDocuments(tokens: TokenFile, share: number): Split {
  const all = documentsOf(tokens);
  if (share === 0 || all.length === 0) return { train: all, validation: [] };
  if (all.length === 1) return splitSpan(all[0]!, share);
  const places = Array.from({ length: tokens.documents }, (_, d) => hash(`${tokens.files[tokens.fileOf[d]!]}:${tokens.lineOf[d]}`) / 2 ** 32);
  const least = places.reduce((best, place, d) => (place < places[best]! ? d : best), 0);
  const chosen = (d: number) => places[d]! < share || d === least;
  const split: Split = { train: [], validation: [] };
  for (let d = 0; d < tokens.documents; d++) {
    const span = spanOf(tokens, d);
    if (span.end > span.start) split[chosen(d) ? 'validation' : 'train'].push(span);
  }
  return split;
}

/** All documents that are not empty. */
export function documentsOf(tokens: TokenFile): Span[] {
  return Array.from({ length: tokens.documents }, (_, d) => spanOf(tokens, d)).filter(({ start, end }) => end > start);
}

function spanOf(tokens: TokenFile, document: number): Span {
  return { start: tokens.start(document), end: tokens.ends[document]! };
}

function splitSpan({ start, end }: Span, share: number): Split {
  const cut = end - Math.max(1, Math.round((end - start) * share));
  return { train: [{ start, end: cut }], validation: [{ start: cut, end }] };
}
