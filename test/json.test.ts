import fc from 'fast-check';
import { duplicateKey, parseJsonObject } from '../lib/json.js';
import { expectError } from './support/errors.js';

test('finds a key written twice in one object only', () => {
  expect(duplicateKey('{"a":1,"b":{"a":2},"c":[{"a":3},{"a":4}]}')).toBeUndefined();
  expect(duplicateKey('{"a":"a","b":["a","a"],"c":"x:"}')).toBeUndefined();
  expect(duplicateKey('[{"b":{"x" \n:1,"y":[],"x":2}}]')).toBe('x');
  expect(duplicateKey('{"a\\"":1,"a\\\\":2,"a\\"" : 3}')).toBe('a"');
  expect(duplicateKey('{"\\u00e9":1,"é":2}')).toBe('é');
});

test('what JSON.stringify writes has no key twice', () => {
  fc.assert(fc.property(fc.jsonValue(), fc.constantFrom('', ' ', '\t'), (value, indent) => {
    expect(duplicateKey(JSON.stringify(value, null, indent))).toBeUndefined();
  }));
});

test('refuses what is not a JSON object, naming the file', async () => {
  await expectError(() => parseJsonObject('{', 'x.json'), 'FILE', 'x.json: expected JSON');
  await expectError(() => parseJsonObject('"text"', 'x.json'), 'FILE', 'x.json: expected a JSON object, found "text"');
  await expectError(() => parseJsonObject('{"a":1,"a":2}', 'x.json'), 'FILE', 'x.json: expected every key once, found "a" twice');
  expect(parseJsonObject('{"a":1,"a":2}', 'x.json', { duplicates: 'allow' })).toEqual({ a: 2 });
});
