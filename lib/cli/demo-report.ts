import { type CacheReport, type GenerationResult, SAMPLE_FILE, type TextModel } from '../index.js';
import { bytes, change, count, indent, percent, rate, table, tokens, wrap } from './format.js';
import { shortPath } from './paths.js';
import type { Note, Trial } from './recall.js';
import type { Style } from './terminal.js';

/** Lines of the file that are shown before its continuation. */
const SHOWN_LINES = 5;

export function heading(text: string, style: Style, width: number): string {
  return `${style.bold(text)} ${style.dim('─'.repeat(Math.max(0, width - text.length - 1)))}\n`;
}

/** What a token is: a byte, or whatever else the tokenizer makes of text. */
export function tokenUnit(model: TextModel, text: string): string {
  const ids = model.tokenizer?.encode(text, { addSpecialTokens: false });
  return ids?.length === Buffer.byteLength(text) ? 'byte' : 'token';
}

/** What is read, and on what. */
export function opening(model: TextModel, text: string, unit: string): string {
  const about = `${shortPath(SAMPLE_FILE)}: ${count(Buffer.byteLength(text))} bytes, ${unit === 'byte' ? 'each of them a token' : tokens(model.encode(text).length)} · ${model.device.name}, ${model.device.description}`;
  return indent(about);
}

/** The last lines of the text, at whose end the model goes on. */
export function lastLines(text: string, style: Style): string {
  return text.split('\n').slice(-SHOWN_LINES).map((line) => `  ${style.dim(line)}`).join('\n');
}

/** A piece of generated text, in the column of {@link lastLines}. */
export function continuation(piece: string, style: Style): string {
  return piece.split('\n').map((line) => (line === '' ? '' : style.accent(line))).join('\n  ');
}

export function explanation({ window, threshold }: CacheReport, width: number): string {
  const text =
    'For every token it has read, each layer and head of a model keeps a pair, a key and a value, to look back at. ' +
    'Here the model itself predicts how useful every pair will be. ' +
    `The newest ${window} tokens, the window, are all there; an older pair is kept only if its predicted usefulness is at least τ = ${threshold}, and otherwise dropped for good. ` +
    'A dense cache is the usual one, which keeps everything.';
  return indent(wrap(text, width - 4));
}

export function comparison(pruned: GenerationResult, dense: GenerationResult, style: Style): string {
  const speed = ({ usage }: GenerationResult) => [
    rate(usage.promptTokens - 1, usage.prefillSeconds),
    rate(usage.completionTokens, usage.decodeSeconds),
  ];
  const column = (result: GenerationResult) => [...speed(result), `${count(result.cache.pairs)} pairs`, bytes(result.cache.bytes)];
  const names = ['reads the file at (prefill)', 'writes at (decode)', 'holds in its cache', 'which takes'];
  const [left, right] = [column(pruned), column(dense)];
  const ratios = [
    faster(pruned.usage.prefillSeconds, dense.usage.prefillSeconds),
    faster(pruned.usage.decodeSeconds / pruned.usage.completionTokens, dense.usage.decodeSeconds / dense.usage.completionTokens),
    percent(pruned.cache.pairs / dense.cache.pairs),
    percent(pruned.cache.bytes / dense.cache.bytes),
  ];
  const head = ['', `τ ${pruned.cache.threshold}`, 'dense', 'ratio'];
  return table(style, head, names.map((name, row) => [name, left[row]!, right[row]!, ratios[row]!]));
}

function faster(seconds: number, denseSeconds: number): string {
  return `${(denseSeconds / seconds).toFixed(2)} ×`;
}

/** Loss, density, bytes, and how many notes are still known, per threshold. */
export function costs(trials: readonly Trial[], notes: readonly Note[], unit: string, style: Style, width: number): string {
  const dense = trials[0]!;
  const disturbed = trials.some(({ threshold, loss }) => threshold > 0 && threshold <= 1 && loss < 0.98 * dense.loss);
  const rows = trials.map(({ threshold, loss, cache, recalled }) => [
    threshold === 0 ? 'dense (τ 0)' : threshold > 1 ? 'window only' : `τ ${threshold}`,
    loss.toFixed(4),
    threshold === 0 ? '' : change(loss, dense.loss),
    percent(cache.density),
    bytes(cache.bytes),
    known(recalled, notes, style),
  ]);
  const [{ name, value }] = notes as [Note];
  const text =
    `Loss is how badly the model predicts the ${unit}s of the file, in nats: lower is better. ` +
    'Kept is the share of the pairs that have left the window. ' +
    `Notes: ${notes.length} lines such as "note ${name} = ${value}" are hidden in the file; at its end the model is asked for their numbers.` +
    (disturbed ? ' This model has learned to do without what it drops: shown all of it (τ 0), it does worse.' : '');
  const head = ['', `loss per ${unit}`, 'change', 'kept', 'bytes held', 'notes recalled'];
  return `${indent(wrap(text, width - 4))}\n\n${table(style, head, rows)}`;
}

function known(recalled: readonly string[], notes: readonly Note[], style: Style): string {
  const right = notes.filter(({ value }, i) => recalled[i] === value).length;
  const text = `${right} of ${notes.length}`;
  return right === notes.length ? style.good(text) : right === 0 ? style.bad(text) : text;
}
