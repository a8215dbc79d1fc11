import Table from 'cli-table3';
import type { Style } from './terminal.js';

const UNITS = ['KiB', 'MiB', 'GiB', 'TiB'];

/** 1,234 */
export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

export function tokens(value: number): string {
  return value === 1 ? '1 token' : `${count(value)} tokens`;
}

/** 512 B, 13.7 MiB: three digits, powers of 1,024. */
export function bytes(value: number): string {
  if (value < 1024) return `${Math.round(value)} B`;
  let unit = -1;
  let scaled = value;
  while (unit < UNITS.length - 1 && (unit < 0 || scaled >= 999.5)) {
    scaled /= 1024;
    unit++;
  }
  return `${scaled.toFixed(scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0)} ${UNITS[unit]}`;
}

/** 6.02 M: for parameters. */
export function amount(value: number): string {
  const [divisor, suffix] = value >= 1e9 ? [1e9, ' B'] : value >= 1e6 ? [1e6, ' M'] : value >= 1e3 ? [1e3, ' k'] : [1, ''];
  const scaled = value / divisor;
  return `${divisor === 1 ? scaled : scaled.toFixed(scaled < 10 ? 2 : 1)}${suffix}`;
}

/** 42 %; a share above 0 is never shown as none, and one below 1 never as all. */
export function percent(share: number): string {
  const rounded = Math.round(share * 100);
  if (rounded === 0 && share > 0) return '<1 %';
  if (rounded === 100 && share < 1) return '>99 %';
  return `${rounded} %`;
}

/** +0.6 %, −2 %: a change relative to what it was. */
export function change(now: number, before: number): string {
  const share = (now / before - 1) * 100;
  const digits = Math.abs(share) < 9.95 ? 1 : 0;
  return `${share < 0 ? '−' : '+'}${Math.abs(share).toFixed(digits)} %`;
}

/** 5,120 tokens/s */
export function rate(tokens: number, seconds: number): string {
  return `${perSecond(tokens, seconds)} tokens/s`;
}

export function perSecond(tokens: number, seconds: number): string {
  if (!(seconds > 0)) return '-';
  const value = tokens / seconds;
  return value < 10 ? value.toFixed(1) : count(value);
}

export function duration(seconds: number): string {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 100 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

const RULES = {
  top: '', 'top-mid': '', 'top-left': '', 'top-right': '',
  bottom: '', 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '',
  left: '', 'left-mid': '', right: '', 'right-mid': '',
  mid: '─', 'mid-mid': '──', middle: '  ',
};

/** A table with a rule below its head; the first column is flush left, numbers flush right. */
export function table(style: Style, head: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = new Table({
    head: head.map((text) => style.bold(text)),
    colAligns: head.map((_, column) => (column === 0 ? 'left' : 'right')),
    chars: RULES,
    style: { head: [], border: [], compact: true, 'padding-left': 0, 'padding-right': 0 },
  });
  lines.push(...rows.map((row) => [...row]));
  return indent(lines.toString().split('\n').map((line) => line.trimEnd()).join('\n'));
}

/** Name and value, one pair per line. */
export function fields(style: Style, pairs: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs.map(([name, value]) => `  ${style.dim(name.padEnd(width))}  ${value}`).join('\n');
}

export function indent(text: string): string {
  return text.split('\n').map((line) => (line === '' ? line : `  ${line}`)).join('\n');
}

/** Breaks plain text into lines of at most `width` columns. */
export function wrap(text: string, width: number): string {
  const lines: string[] = [];
  for (const paragraph of text.split('\n')) {
    let line = '';
    for (const word of paragraph.split(' ')) {
      if (line !== '' && line.length + 1 + word.length > width) {
        lines.push(line);
        line = word;
      } else {
        line = line === '' ? word : `${line} ${word}`;
      }
    }
    lines.push(line);
  }
  return lines.join('\n');
}
