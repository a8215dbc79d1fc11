import { heatColor } from '../../heat-color.js';
import { element, escape, round } from './svg.js';

export interface Grid {
  rows: readonly string[];
  columns: readonly string[];
  /** By row, then column: shares from 0 to 1. */
  values: readonly (readonly number[])[];
  /** What a column is. */
  columnLabel: string;
}

const WIDTH = 720;
const LEFT = 92;
const ROW = { least: 5, most: 18 };
/** Heights of many rows shrink so that the whole stays on a screen. */
const BODY = 420;

/** Shares as colours, dark for 0 and light for 1; pointing at one shows its value. */
export function heatGrid({ rows, columns, values, columnLabel }: Grid): string {
  const height = Math.max(ROW.least, Math.min(ROW.most, BODY / rows.length));
  const width = (WIDTH - LEFT) / columns.length;
  const labelled = Math.ceil(11 / height); // every so many rows there is room for a name
  const body = rows.map((row, r) => {
    const cells = columns.map((column, c) => {
      const value = values[r]![c]!;
      if (!Number.isFinite(value)) return '';
      const [red, green, blue] = heatColor(value);
      const title = element('title', {}, escape(`${row}, ${columnLabel} ${column}: ${(100 * value).toFixed(1)} %`));
      const place = { x: round(LEFT + c * width), y: round(r * height), width: round(width + 0.1), height: round(height + 0.1) };
      return element('rect', { ...place, fill: `rgb(${red},${green},${blue})` }, title);
    });
    const name = r % labelled === 0 ? element('text', { x: LEFT - 6, y: round(r * height + height / 2 + 4), class: 'tick y' }, escape(row)) : '';
    return name + cells.join('');
  });
  const bottom = rows.length * height;
  const every = Math.ceil(columns.length / 10);
  const names = columns.map((column, c) =>
    c % every === 0 ? element('text', { x: round(LEFT + (c + 0.5) * width), y: round(bottom + 14), class: 'tick' }, escape(column)) : '',
  );
  const label = element('text', { x: (LEFT + WIDTH) / 2, y: round(bottom + 30), class: 'label' }, escape(columnLabel));
  return element('svg', { viewBox: `0 0 ${WIDTH} ${round(bottom + 36)}`, role: 'img', 'shape-rendering': 'crispEdges' }, [...body, ...names, label].join(''));
}
