import { heatColor } from '../lib/heat-color.js';

describe('heatColor', () => {
  test('goes from dark to light', () => {
    const light = (share: number) => heatColor(share).reduce((sum, value) => sum + value, 0);
    for (let i = 1; i <= 20; i++) expect(light(i / 20)).toBeGreaterThanOrEqual(light((i - 1) / 20));
  });

  test('stays in range outside 0 to 1', () => {
    expect(heatColor(-3)).toEqual(heatColor(0));
    expect(heatColor(7)).toEqual(heatColor(1));
  });
});
