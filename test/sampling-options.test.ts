import { resolveSampling } from '../lib/sampling-options.js';
import { expectError } from './support/errors.js';

const DEFAULTS = {
  temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, frequencyPenalty: 0, presencePenalty: 0, seed: 0,
};

test('the defaults are greedy, without penalties', () => {
  expect(resolveSampling()).toEqual(DEFAULTS);
  expect(resolveSampling({})).toEqual(DEFAULTS);
  expect(resolveSampling({ topK: undefined } as never)).toEqual(DEFAULTS);
});

test.each([
  { temperature: 100, topK: 1e9, topP: 1e-6, minP: 1, repetitionPenalty: 1e-3, frequencyPenalty: 2, presencePenalty: -2, seed: 2 ** 53 - 1 },
  { temperature: 0.7, topK: 40, topP: 0.95, minP: 0.05, repetitionPenalty: 1.1, frequencyPenalty: -2, presencePenalty: 2, seed: 0 },
])('keeps what is given: %j', (given) => {
  expect(resolveSampling(given)).toEqual(given);
  for (const [name, value] of Object.entries(given)) expect(resolveSampling({ [name]: value })).toEqual({ ...DEFAULTS, [name]: value });
});

test.each([
  ['temperature', [-0.1, 100.5, NaN, Infinity, '1', null], /a number from 0 to 100 for temperature/],
  ['topK', [-1, 0.5, 1e9 + 1, NaN, '1', null], /an integer from 0 to 1000000000 for topK/],
  ['topP', [0, -0.1, 1.01, 1e-60, 1e-40, NaN, '1', null], /a number above 0 and at most 1 for topP/],
  ['minP', [-0.1, 1.01, NaN, null], /a number from 0 to 1 for minP/],
  ['repetitionPenalty', [0, -1, 1e-60, 1e-40, 1e60, Infinity, NaN, null], /a number above 0 for repetitionPenalty/],
  ['frequencyPenalty', [-2.1, 2.1, NaN, null], /a number from -2 to 2 for frequencyPenalty/],
  ['presencePenalty', [-2.1, 2.1, NaN, null], /a number from -2 to 2 for presencePenalty/],
  ['seed', [-1, 0.5, 2 ** 53, NaN, 1n, null], /an integer of at least 0 for seed/],
])('%s', async (name, values, message) => {
  for (const value of values) await expectError(() => resolveSampling({ [name]: value }), 'INVALID_ARGUMENT', message);
});

test('unknown options are refused', async () => {
  await expectError(() => resolveSampling({ temprature: 1 } as never), 'INVALID_ARGUMENT', /"temprature".*did you mean "temperature"/);
  await expectError(() => resolveSampling({ top_k: 1 } as never), 'INVALID_ARGUMENT', /did you mean "topK"/);
  await expectError(() => resolveSampling(5 as never), 'INVALID_ARGUMENT', /an object for sampling options/);
});
