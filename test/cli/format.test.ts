import { amount, bytes, change, count, duration, percent, rate, table, wrap } from '../../lib/cli/format.js';
import { real, size, whole } from '../../lib/cli/options.js';
import { Style } from '../../lib/cli/terminal.js';

test.each([[0, '0 B'], [1023, '1023 B'], [1024, '1.00 KiB'], [14.46 * 2 ** 20, '14.5 MiB'], [1023.6 * 2 ** 10, '1.00 MiB'], [5e15, '4547 TiB']])(
  'bytes(%p) is %s',
  (value, text) => expect(bytes(value)).toBe(text),
);

test.each([[0, '0 %'], [0.001, '<1 %'], [0.5, '50 %'], [0.999, '>99 %'], [1, '100 %']])('percent(%p) is %s', (share, text) => {
  expect(percent(share)).toBe(text);
});

test('numbers', () => {
  expect(count(1234567)).toBe('1,234,567');
  expect(amount(6_020_000)).toBe('6.02 M');
  expect(amount(320)).toBe('320');
  expect(change(1.006, 1)).toBe('+0.6 %');
  expect(change(0.8, 1)).toBe('−20 %');
  expect(rate(5120, 1)).toBe('5,120 tokens/s');
  expect(rate(5, 0)).toBe('- tokens/s');
  expect(duration(0.0414)).toBe('41 ms');
  expect(duration(125)).toBe('2 min 5 s');
});

test('wrap breaks at words', () => {
  expect(wrap('one two three\nfour', 8)).toBe('one two\nthree\nfour');
  expect(wrap('indivisible', 4)).toBe('indivisible');
});

test('table', () => {
  expect(table(new Style(1), ['', 'kept'], [['dense', '100 %'], ['τ 0.5', '55 %']]).split('\n')).toEqual([
    '          kept',
    '  ────────────',
    '  dense  100 %',
    '  τ 0.5   55 %',
  ]);
});

describe('size', () => {
  test.each([['1024', 1024], ['512M', 512 * 2 ** 20], ['2g', 2 ** 31], ['1.5GiB', 1.5 * 2 ** 30], ['4KB', 4096]])('reads %s', (text, value) => {
    expect(size(text)).toBe(value);
  });

  test.each(['', '0', '-1', 'M', '5 apples', '1e9', '99999999T'])('refuses "%s"', (text) => {
    expect(() => size(text)).toThrow('Expected a size in bytes');
  });
});

describe('numbers of options', () => {
  test.each(['', ' ', '1.5', 'x', '-1', '11', 'Infinity', '1e99'])('whole refuses "%s"', (text) => {
    expect(() => whole(0, 10)(text)).toThrow('Expected a whole number from 0 to 10.');
  });

  test.each(['', 'x', '-0.1', '2.1', 'NaN'])('real refuses "%s"', (text) => {
    expect(() => real(0, 2)(text)).toThrow('Expected a number from 0 to 2.');
  });

  test('and what they take', () => {
    expect(whole(1)('7')).toBe(7);
    expect(real(0)('1e-3')).toBe(0.001);
  });
});
