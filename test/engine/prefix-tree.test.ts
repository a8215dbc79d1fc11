import fc from 'fast-check';
import { type Node, PrefixTree } from '../../lib/engine/prefix-tree.js';

test('finds what a plain list of all beginnings finds', () => {
  const ids = fc.array(fc.nat(2), { maxLength: 8 });
  const action = fc.record({ kind: fc.constantFrom('set', 'set', 'delete'), ids, length: fc.nat(8), which: fc.nat(100), query: ids });
  const property = fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
    const tree = new PrefixTree<string>();
    const plain = new Map<string, { value: string; node: Node<string> }>();
    for (const { kind, ids: given, length: wanted, which, query } of actions) {
      const length = Math.min(wanted, given.length);
      if (kind === 'set') {
        const key = given.slice(0, length).join();
        const node = tree.at(given, length);
        node.value = `${key}!`;
        plain.set(key, { value: node.value, node });
      } else if (plain.size > 0) {
        const [key, { node }] = [...plain][which % plain.size]!;
        tree.delete(node);
        plain.delete(key);
      }
      const expected = Array.from({ length: query.length + 1 }, (_, i) => plain.get(query.slice(0, i).join())?.value).filter((value) => value !== undefined);
      expect([...tree.along(query)]).toEqual(expected);
      expect(tree.empty).toBe(plain.size === 0);
      for (const [key, { node }] of plain) {
        const below = [...plain.keys()].filter((other) => other !== key && (key === '' || other.startsWith(`${key},`)));
        const next = below.filter((other) => !below.some((between) => between !== other && other.startsWith(`${between},`)));
        expect([...tree.next(node)].sort()).toEqual(next.map((other) => `${other}!`).sort());
      }
    }
  });
  fc.assert(property, { numRuns: 300 });
});
