import { heatColor } from '../heat-color.js';
import type { Style } from './terminal.js';

const SHADES = ['░', '▒', '▓', '█'];

/** The shade of a share from 0 to 1, for terminals without colours. */
export function shade(share: number): string {
  return SHADES[Math.min(SHADES.length - 1, Math.floor(Math.max(0, share) * SHADES.length))]!;
}

/**
 * Density per layer (rows) and KV head (columns) as blocks with the percentage in them, and the mean of every
 * layer at the end. Numbers are left out where the heads are too many for the width.
 */
export function heatMap(densities: readonly (readonly number[])[], style: Style, width: number): string {
  const heads = densities[0]?.length ?? 0;
  const label = Math.max('layer'.length, String(densities.length - 1).length);
  const cell = cellWidth(heads, width - label - '    mean  '.length);
  const head = Array.from({ length: heads }, (_, h) => center(cell >= 5 ? `head ${h}`.slice(cell >= 8 ? 0 : 5) : '', cell)).join('');
  const lines = [style.dim(`  ${'layer'.padStart(label)} ${cell >= 5 ? head : ` ${heads} heads`.padEnd(heads * cell)}  mean`)];
  for (const [layer, shares] of densities.entries()) {
    const blocks = shares.map((share) => block(share, cell, style)).join('');
    const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
    lines.push(`  ${style.dim(String(layer).padStart(label))} ${blocks}  ${percentage(mean).padStart(4)}`);
  }
  lines.push('', `  ${''.padStart(label)} ${legend(style)}`);
  return lines.join('\n');
}

/** As wide as looks good; numbers need 5 columns. */
function cellWidth(heads: number, width: number): number {
  const room = Math.floor(width / Math.max(1, heads));
  if (room >= 5) return Math.min(room, heads <= 4 ? 12 : 7);
  return Math.max(1, Math.min(2, room));
}

function block(share: number, width: number, style: Style): string {
  const text = width >= 5 ? percentage(share) : '';
  if (style.hasBlocks) return style.block(center(text && text.padStart(4), width), heatColor(share));
  if (text === '') return shade(share).repeat(width);
  const bar = shade(share).repeat(Math.max(1, width - 7)) + (width >= 6 ? ' ' : '');
  return center(`${bar}${text.padStart(4)}`, width);
}

function legend(style: Style): string {
  const steps = 20;
  const scale = Array.from({ length: steps }, (_, i) => {
    const share = i / (steps - 1);
    return style.hasBlocks ? style.block(' ', heatColor(share)) : shade(share);
  });
  return `${style.dim('drops all')} ${scale.join('')} ${style.dim('keeps all')}`;
}

function percentage(share: number): string {
  const rounded = Math.round(share * 100);
  return `${rounded === 100 && share < 1 ? 99 : rounded === 0 && share > 0 ? 1 : rounded}%`;
}

function center(text: string, width: number): string {
  const left = Math.floor((width - text.length) / 2);
  return text.length >= width ? text : text.padStart(left + text.length).padEnd(width);
}
