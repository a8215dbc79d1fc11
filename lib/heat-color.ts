export type Rgb = readonly [red: number, green: number, blue: number];

/** Dark to light, told apart by brightness alone too. */
const RAMP: readonly Rgb[] = [
  [68, 1, 84],
  [59, 82, 139],
  [33, 145, 140],
  [94, 201, 98],
  [253, 231, 37],
];

/** The colour of a share from 0 to 1. */
export function heatColor(share: number): Rgb {
  const place = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
  const index = Math.min(RAMP.length - 2, Math.floor(place));
  const [from, to] = [RAMP[index]!, RAMP[index + 1]!];
  const mix = (i: 0 | 1 | 2) => Math.round(from[i] + (to[i] - from[i]) * (place - index));
  return [mix(0), mix(1), mix(2)];
}
