import fc from 'fast-check';
import { lineChart } from '../../../lib/train/report/line-chart.js';
import { ticks, tickText } from '../../../lib/train/report/svg.js';

/** The coordinates of the first line. */
const coordinates = (svg: string) => [.../ d="([^"]+)"/.exec(svg)![1]!.matchAll(/[ML]([\d.-]+) ([\d.-]+)/g)].map(([, x, y]) => [Number(x), Number(y)] as const);

test('the lowest and highest points touch the edges of the plot', () => {
  const points = coordinates(lineChart([{ name: 'a', points: [[0, 1], [5, 3], [10, 2]] }]));
  expect(points).toEqual([[56, 206], [382, 12], [708, 109]]);
});

test('the axis can be made to reach down to a value', () => {
  const [, second] = coordinates(lineChart([{ name: 'a', points: [[0, 1], [1, 2]] }], { from: 0 }));
  expect(coordinates(lineChart([{ name: 'a', points: [[0, 1], [1, 2]] }], { from: 0 }))[0]![1]).toBeCloseTo(109, 1); // half way
  expect(second![1]).toBe(12);
});

test('a single point, equal values and values that are not finite are drawn without harm', () => {
  for (const points of [[[3, 2]], [[0, 2], [1, 2]], [[0, NaN], [1, 5], [2, Infinity]]] as [number, number][][]) {
    const svg = lineChart([{ name: 'a', points, marked: true }]);
    expect(svg).toContain('<circle');
    expect(svg).not.toMatch(/NaN|Infinity/);
  }
  expect(lineChart([{ name: 'a', points: [] }])).toBe('');
});

test('ticks are round, within the range, and about as many as asked for', () => {
  expect(ticks(0, 10, 5)).toEqual([0, 2, 4, 6, 8, 10]);
  expect(ticks(1.38, 1.52, 5)).toEqual([1.4, 1.45, 1.5]);
  fc.assert(fc.property(fc.double({ min: -1e6, max: 1e6, noNaN: true }), fc.double({ min: 1e-3, max: 1e6, noNaN: true }), (low, width) => {
    const found = ticks(low, low + width, 5);
    expect(found.every((tick) => tick >= low - 1e-6 * width && tick <= low + width * (1 + 1e-6))).toBe(true);
    expect(found.length).toBeGreaterThanOrEqual(2);
    expect(found.length).toBeLessThanOrEqual(7);
  }));
  expect([0, 0.003, 1500, 2e-7].map(tickText)).toEqual(['0', '0.003', '1,500', '2e-7']);
});
