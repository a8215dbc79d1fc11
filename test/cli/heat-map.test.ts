import { heatMap, shade } from '../../lib/cli/heat-map.js';
import { Style } from '../../lib/cli/terminal.js';
import { withoutColors } from '../support/cli.js';

const plain = new Style(1);
const color = new Style(24);

describe('shade', () => {
  test.each([[-1, '░'], [0, '░'], [0.24, '░'], [0.25, '▒'], [0.5, '▓'], [0.75, '█'], [1, '█'], [2, '█']])('of %p is %s', (share, expected) => {
    expect(shade(share)).toBe(expected);
  });
});

describe('heatMap', () => {
  const densities = [[0, 0.44], [0.001, 0.999], [1, 1]];

  test('without colours has shades, percentages and the mean of every layer', () => {
    expect(heatMap(densities, plain, 80).split('\n')).toEqual([
      '  layer    head 0      head 1     mean',
      '      0  ░░░░░   0%  ▒▒▒▒▒  44%    22%',
      '      1  ░░░░░   1%  █████  99%    50%',
      '      2  █████ 100%  █████ 100%   100%',
      '',
      '        drops all ░░░░░▒▒▒▒▒▓▓▓▓▓█████ keeps all',
    ]);
  });

  test('with colours has the same numbers on coloured ground', () => {
    const [head, first] = heatMap(densities, color, 80).split('\n');
    expect(withoutColors(head!)).toBe('  layer    head 0      head 1     mean');
    expect(withoutColors(first!)).toBe('      0       0%         44%       22%');
    expect(first).toContain('\u001B[48;2;68;1;84;38;2;255;255;255m');
  });

  test('uses the palette where a terminal has 256 colours', () => {
    expect(heatMap(densities, new Style(8), 80)).toContain('\u001B[48;5;');
  });

  test.each([[1, 12], [8, 7], [16, 5], [32, 2], [128, 1]])('%i heads in 100 columns take %i each', (heads, cell) => {
    const [head, first] = heatMap([Array.from({ length: heads }, () => 0.5)], plain, 100).split('\n');
    expect(head!.length).toBe(first!.length);
    expect(first!.length).toBe('      0 '.length + heads * cell + '   50%'.length);
    expect(first!.includes('▓')).toBe(true);
  });
});
