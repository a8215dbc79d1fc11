import { escape, element, round, ticks, tickText } from './svg.js';

export interface Series {
  name: string;
  /** Points in order of x. */
  points: readonly (readonly [x: number, y: number])[];
  /** Points that are few are marked; many become a line only. */
  marked?: boolean;
}

const WIDTH = 720;
const HEIGHT = 240;
const MARGIN = { left: 56, right: 12, top: 12, bottom: 34 };
/** Points that a line has at most; of more, neighbours are averaged. */
const MOST_POINTS = 500;
const COLORS = ['#2f6fdb', '#d9622b', '#2b9a66', '#8e4ec6', '#b8860b', '#c2185b'];

/** Lines over the steps of a run, as SVG. Values that are not finite leave a gap. */
export function lineChart(series: readonly Series[], { from, xLabel = 'step' }: { from?: number; xLabel?: string } = {}): string {
  const thinned = series.map((line) => ({ ...line, points: thin(line.points.filter(([, y]) => Number.isFinite(y))) }));
  const all = thinned.flatMap(({ points }) => points);
  if (all.length === 0) return '';
  const xs = all.map(([x]) => x);
  const ys = all.map(([, y]) => y);
  const x = scale(Math.min(...xs), Math.max(...xs), MARGIN.left, WIDTH - MARGIN.right);
  const y = scale(Math.min(from ?? Infinity, ...ys), Math.max(...ys), HEIGHT - MARGIN.bottom, MARGIN.top);
  const lines = thinned.map((line, i) => drawSeries(line, COLORS[i % COLORS.length]!, x.place, y.place));
  const body = [axes(x, y), element('text', { x: WIDTH / 2, y: HEIGHT - 4, class: 'label' }, escape(xLabel)), ...lines].join('');
  return `${element('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img' }, body)}${legend(thinned.map(({ name }) => name))}`;
}

interface Scale {
  low: number;
  high: number;
  place: (value: number) => number;
}

function scale(low: number, high: number, start: number, end: number): Scale {
  const room = high > low ? 0 : Math.abs(low) * 0.1 || 1;
  const [a, b] = [low - room, high + room];
  return { low: a, high: b, place: (value) => round(start + ((value - a) / (b - a)) * (end - start)) };
}

function axes(x: Scale, y: Scale): string {
  const rows = ticks(y.low, y.high, 5).map((value) => {
    const at = y.place(value);
    const text = element('text', { x: MARGIN.left - 6, y: at + 4, class: 'tick y' }, tickText(value));
    return `${element('line', { x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: at, y2: at, class: 'grid' })}${text}`;
  });
  const columns = ticks(x.low, x.high, 8).map((value) => element('text', { x: x.place(value), y: HEIGHT - 18, class: 'tick' }, tickText(value)));
  return [...rows, ...columns].join('');
}

function drawSeries({ name, points, marked }: Series, color: string, x: Scale['place'], y: Scale['place']): string {
  const path = points.map(([px, py], i) => `${i === 0 ? 'M' : 'L'}${x(px)} ${y(py)}`).join('');
  const title = element('title', {}, escape(name));
  const line = element('path', { d: path, fill: 'none', stroke: color, 'stroke-width': 1.5, 'stroke-linejoin': 'round' }, title);
  if (!marked && points.length > 1) return line;
  const marks = points.map(([px, py]) => element('circle', { cx: x(px), cy: y(py), r: 2.5, fill: color }, element('title', {}, `${escape(name)} at ${px}: ${tickText(py)}`)));
  return line + marks.join('');
}

function legend(names: readonly string[]): string {
  const items = names.map((name, i) => `<span><i style="background:${COLORS[i % COLORS.length]}"></i>${escape(name)}</span>`);
  return `<p class="legend">${items.join('')}</p>`;
}

/** Averages of neighbours, so that the length is bounded and noise shows as what it is: less of it. */
function thin(points: Series['points']): Series['points'] {
  const size = Math.ceil(points.length / MOST_POINTS);
  if (size <= 1) return points;
  const groups = Array.from({ length: Math.ceil(points.length / size) }, (_, i) => points.slice(i * size, (i + 1) * size));
  return groups.map((group) => [group.at(-1)![0], group.reduce((sum, [, y]) => sum + y, 0) / group.length]);
}
