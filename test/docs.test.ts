// The manual: its links lead somewhere, its commands take the options that they are given, its tables list what there is.
// (`npm run types` checks its examples.)
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Command } from 'commander';
import { createProgram } from '../lib/cli/program.js';

const MANUAL = ['README.md', ...readdirSync('docs').filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)];
const PAGES = [...MANUAL, 'models/code-6m-spkv/README.md', 'bench/peers/README.md'];

const read = (path: string): string => readFileSync(path, 'utf8');
const codes = (text: string): string[] => [...text.matchAll(/`([^`]+)`/g)].map(([, code]) => code!);

/** A page without its blocks of code. */
const prose = (path: string): string => read(path).replaceAll(/^( *)```[\s\S]*?^\1```$/gm, '');

/** The anchors of a page, as GitHub makes them of its headings. */
function anchorsOf(path: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading] of prose(path).matchAll(/^#{1,6} (.+)$/gm)) {
    const slug = heading!.toLowerCase().replaceAll(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-');
    let anchor = slug;
    for (let n = 1; anchors.has(anchor); n++) anchor = `${slug}-${n}`;
    anchors.add(anchor);
  }
  return anchors;
}

test.each(PAGES)('the links of %s', (page) => {
  const links = [...prose(page).matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link!).filter((link) => !link.startsWith('https://'));
  const dead = links.filter((link) => {
    const [path, anchor] = link.split('#');
    const target = path ? join(dirname(page), path) : page;
    return !existsSync(target) || (anchor !== undefined && !anchorsOf(target).has(anchor));
  });
  expect(dead).toEqual([]);
});

test('every chapter can be reached from the README', () => {
  const linked = new Set([...read('README.md').matchAll(/\]\((docs\/[^)#]+\.md)/g)].map(([, path]) => path!));
  expect(MANUAL.slice(1).filter((page) => !linked.has(page))).toEqual([]);
});

describe('commands', () => {
  const program = createProgram();
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };

  /** `bench decode` with its options and those of the program. */
  function find(words: readonly string[]): { command: Command; options: Set<string> } {
    let command = program;
    for (const word of words) command = command.commands.find((entry) => entry.name() === word) ?? command;
    return { command, options: new Set([...program.options, ...command.options].flatMap(({ short, long }) => [short, long]).concat('--help').filter((flag) => flag !== undefined)) };
  }

  /** Every line of a page's shell blocks, and every piece of code in its text; variables of a block are put in. */
  function commandsOf(page: string): string[] {
    const blocks = [...read(page).matchAll(/^ *```sh\n([\s\S]*?)^ *```$/gm)].flatMap(([, block]) => {
      const variables = [...block!.matchAll(/^(\w+)="(.*)"$/gm)];
      return variables.reduce((text, [, name, value]) => text.replaceAll(`$${name}`, value!), block!).split('\n');
    });
    return [...blocks, ...codes(prose(page))].map((line) => line.replace(/ # .*/, '').replaceAll(/"[^"]*"/g, '""'));
  }

  test.each(MANUAL)('of spkv in %s', (page) => {
    const wrong = commandsOf(page).flatMap((line) => {
      const [, words] = /(?:^|\/|npx )spkv ((?:[a-z-]+ ?)+.*)/.exec(line) ?? [];
      if (!words) return [];
      const { command, options } = find(words.split(' ').slice(0, 2));
      if (command === program) return [`${line}: no such command`];
      const flags = [...words.matchAll(/(?<= )--?[a-z][\w-]*/g)].map(([flag]) => flag);
      return flags.filter((flag) => !options.has(flag)).map((flag) => `${line}: ${flag}`);
    });
    expect(wrong).toEqual([]);
  });

  test('of npm', () => {
    const called = MANUAL.flatMap((page) => [...read(page).matchAll(/npm (?:run )?([a-z:]+)/g)].map(([, name]) => name!));
    expect(called.filter((name) => !(name in scripts) && !['install', 'pack'].includes(name))).toEqual([]);
  });
});

describe('tables', () => {
  const sources = readdirSync('lib', { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts')).map((name) => read(join('lib', name)));

  /** What a table lists: its first column is headed by a type of the library, or by a command. */
  const tables = MANUAL.flatMap((page) =>
    [...read(page).matchAll(/^\| `((?:spkv )?[\w-]+)` \|.*\n\| --- .*\n((?:\|.*\n)+)/gm)].map(([, of, rows]) => ({
      of: of!,
      names: rows!.trim().split('\n').flatMap((row) => codes(row.split(' | ')[0]!)),
    })),
  );
  const listed = new Set(tables.flatMap(({ names }) => names));

  /** The members of an interface, or of a union of texts, and those of what it extends. */
  function membersOf(type: string): { own: string[]; all: string[] } {
    const find = (pattern: string) => sources.map((text) => new RegExp(pattern, 'm').exec(text)).find((match) => match !== null);
    const union = find(`^export type ${type} =\\n((?:  \\| '.*\\n)+)`);
    if (union) {
      const own = [...union[1]!.matchAll(/^ {2}\| '(\w+)'/gm)].map(([, name]) => name!);
      return { own, all: own };
    }
    const found = find(`^export interface ${type}(?: extends ([^{]+))? \\{\\n([\\s\\S]*?)^\\}`);
    if (!found) throw new Error(`lib/ has no type ${type}`);
    const own = [...found[2]!.matchAll(/^ {2}(\w+)\??:/gm)].map(([, name]) => name!);
    const bases = [...(found[1] ?? '').matchAll(/\b[A-Z]\w+/g)].map(([name]) => name).filter((name) => !['Omit', 'Pick', 'Partial'].includes(name));
    const omitted = [...(found[1] ?? '').matchAll(/Omit<\w+, ([^>]+)>/g)].flatMap(([, names]) => [...names!.matchAll(/\w+/g)].map(([name]) => name));
    return { own, all: [...own, ...bases.flatMap((base) => membersOf(base).all.filter((name) => !omitted.includes(name)))] };
  }

  test('there are some', () => {
    expect(tables.length).toBeGreaterThan(8);
  });

  test.each(tables.filter(({ of }) => !of.startsWith('spkv ')))('$of has what is listed, and all of it is listed', ({ of, names }) => {
    const { own, all } = membersOf(of);
    expect(own.length).toBeGreaterThan(1);
    expect(names.filter((name) => !all.includes(name))).toEqual([]);
    expect(own.filter((name) => !names.includes(name))).toEqual([]);
    expect(all.filter((name) => !listed.has(name))).toEqual([]);
  });

  test.each(tables.filter(({ of }) => of.startsWith('spkv ')))('$of has the options that are listed', ({ of, names }) => {
    const command = createProgram().commands.find((entry) => entry.name() === of.split(' ')[1])!;
    expect(names.filter((name) => !command.options.some(({ long }) => long === name))).toEqual([]);
  });
});
