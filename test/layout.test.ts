// The layout of the sources: what may use what, and which lists must agree.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join } from 'node:path';

/** The layers of lib/, lowest first: a file imports from its own layer and from those above it in this list. */
const LAYERS = [
  ['errors', 'check', 'jobs', 'json', 'files', 'write', 'half', 'random', 'heat-color', 'version', 'bundled'],
  ['native'],
  ['tensor', 'device', 'cache', 'communicator', 'ops'],
  ['checkpoint/', 'text/', 'sampling-options'],
  ['constrain/'],
  ['model/'],
  ['onnx/'],
  ['session', 'report', 'evaluate', 'answer-options', 'generate', 'text-model'],
  ['engine/'],
  ['index'],
  ['onnxruntime/'],
  ['train/'],
  ['benchmark/'],
  ['server/'],
  ['cli/'],
];
/** The files of lib/ that hold handles of the binary. */
const DOOR = ['ops', 'tensor', 'device', 'cache', 'communicator', 'onnxruntime/native-session'];
/** What the folders of native/ may include from one another. */
const NATIVE: Record<string, string[]> = {
  core: ['core'],
  ops: ['core', 'ops'],
  cpu: ['core', 'ops', 'cpu'],
  cuda: ['core', 'ops', 'cuda'],
  onnxruntime: ['core', 'ops', 'onnxruntime'],
  binding: ['core', 'ops', 'onnxruntime', 'binding'],
};
/** The files of the binding that open devices; what devices are is all they know of them. */
const OPENERS = ['native/binding/device.cc', 'native/binding/cuda_library.h'];
const MAX_LINES = 400;

const read = (path: string): string => readFileSync(path, 'utf8');

function filesBelow(folder: string, extensions: RegExp): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return entry.name === 'node_modules' ? [] : filesBelow(path, extensions);
    return extensions.test(entry.name) ? [path] : [];
  });
}

interface Import {
  /** A path such as lib/model/model.ts, or the name of a package. */
  target: string;
  relative: boolean;
  typesOnly: boolean;
}

/** The imports and re-exports of a TypeScript file, dynamic ones with a literal name included. */
function importsOf(path: string): Import[] {
  const text = read(path).replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
  const statement = /^\s*(?:import|export)\s+(type\s)?([^;'"]*?)\s*from\s*['"]([^'"]+)['"]|^\s*import\s*['"]([^'"]+)['"]|import\(\s*['"]([^'"]+)['"]/gm;
  return [...text.matchAll(statement)].map(([, type, names, from, bare, dynamic]) => {
    const specifier = (from ?? bare ?? dynamic)!;
    const relative = specifier.startsWith('.');
    const listed = names?.match(/^\{([\s\S]*)\}$/)?.[1]?.split(',').map((name) => name.trim()).filter(Boolean);
    return {
      relative,
      target: relative ? join(dirname(path), specifier).replace(/\.js$/, '.ts') : specifier,
      typesOnly: type !== undefined || listed?.every((name) => name.startsWith('type ')) === true,
    };
  });
}

const library = filesBelow('lib', /\.ts$/);

function layerOf(path: string): number {
  const name = path.replace(/^lib\//, '').replace(/\.ts$/, '');
  const layer = LAYERS.findIndex((entries) => entries.some((entry) => (entry.endsWith('/') ? name.startsWith(entry) : name === entry)));
  if (layer < 0) throw new Error(`${path} has no place in the layers; give it one in test/layout.test.ts`);
  return layer;
}

describe('lib', () => {
  test('every file has its layer, and imports go one way', () => {
    const wrong = library.flatMap((path) =>
      importsOf(path)
        .filter(({ relative, target }) => relative && (!target.startsWith('lib/') || layerOf(target) > layerOf(path)))
        .map(({ target }) => `${path} imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  test('no cycles, but of types within a layer', () => {
    const values = new Map(library.map((path) => [path, importsOf(path).filter((entry) => entry.relative && !entry.typesOnly)]));
    const state = new Map<string, 'open' | 'done'>();
    const cycles: string[] = [];
    const visit = (path: string, trail: string[]): void => {
      if (state.get(path) === 'open') cycles.push([...trail.slice(trail.indexOf(path)), path].join(' -> '));
      if (state.has(path)) return;
      state.set(path, 'open');
      for (const { target } of values.get(path) ?? []) visit(target, [...trail, path]);
      state.set(path, 'done');
    };
    for (const path of library) visit(path, []);
    expect(cycles).toEqual([]);
  });

  test('packages are dependencies, and node modules have their prefix', () => {
    const { dependencies, peerDependencies } = JSON.parse(read('package.json')) as Record<string, Record<string, string>>;
    const known = new Set([...Object.keys({ ...dependencies, ...peerDependencies }), ...builtinModules.map((name) => `node:${name}`)]);
    const unknown = library.flatMap((path) =>
      importsOf(path)
        .filter(({ relative, target }) => !relative && !known.has(target))
        .map(({ target }) => `${path} imports ${target}`),
    );
    expect(unknown).toEqual([]);
  });

  test('only native.ts loads the binary, and only the door holds its handles', () => {
    const loaders = library.filter((path) => /\bdlopen\b|\.node['"`]/.test(read(path)));
    expect(loaders).toEqual(['lib/native.ts']);
    const holders = library.filter((path) => importsOf(path).some(({ target }) => target === 'lib/native.ts'));
    expect(holders.sort()).toEqual(DOOR.map((name) => `lib/${name}.ts`).sort());
  });
});

describe('native', () => {
  const sources = filesBelow('native', /\.(h|cc|cuh|cu)$/);
  const operationHeaders = readdirSync('native/ops').filter((name) => name !== 'operations.h').map((name) => name.replace(/\.h$/, ''));

  test('includes go one way', () => {
    const wrong = sources.flatMap((path) => {
      const allowed = NATIVE[path.split('/')[1]!] ?? [];
      return [...read(path).matchAll(/^#include "([^"]+)"/gm)]
        .map(([, target]) => target!)
        .filter((target) => !allowed.includes(target.split('/')[0]!) && !(OPENERS.includes(path) && /^\w+\/device\.h$/.test(target)))
        .map((target) => `${path} includes ${target}`);
    });
    expect(wrong).toEqual([]);
  });

  test('only the binding knows Node', () => {
    const wrong = sources.filter((path) => !path.startsWith('native/binding/') && /#include <(napi|node|v8|uv)/.test(read(path)));
    expect(wrong).toEqual([]);
  });

  test.each(operationHeaders)('%s has its CPU version and its binding', (name) => {
    expect(existsSync(`native/cpu/${name}.cc`)).toBe(true);
    expect(existsSync(`native/binding/${name}.cc`)).toBe(true);
  });

  test('every operation of the table is exported by the library, under the same name', () => {
    const table = [...read('native/ops/operations.h').matchAll(/^ {2}X\((\w+), (\w+)\)/gm)].map(([, name]) => name!);
    expect(table.length).toBeGreaterThan(10);
    const camel = table.map((name) => name.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase()));
    const exported = [...read('lib/ops.ts').matchAll(/^export (?:const|function) (\w+)/gm)].map(([, name]) => name!);
    expect(camel.filter((name) => !exported.includes(name))).toEqual([]);
  });

  test('the exports of the binding are those that lib/native.ts declares', () => {
    const exported = [...read('native/binding/exports.h').matchAll(/^ {2}X\((\w+), (\w+)\)/gm)].map(([, name]) => name!);
    const always = [...read('native/binding/addon.cc').matchAll(/exports\.Set\("(\w+)"/g)].map(([, name]) => name!);
    const body = /export interface Native \{([\s\S]*?)\n\}/.exec(read('lib/native.ts'))![1]!;
    const declared = [...body.matchAll(/^ {2}(\w+)\(/gm)].map(([, name]) => name!);
    expect([...always, ...exported].sort()).toEqual(declared.sort());
  });

  test('instructions of one kind of processor stand behind a guard', () => {
    const processor = /\b_mm\d*_\w+|\b__m(128|256|512)[a-z]*\b|\bimmintrin\.h\b|\b__builtin_(ia32|cpu)_\w+|\barm_neon\.h\b|\bv\w+q_f32\(/;
    const guard = /__x86_64__|__AVX|__SSE|__F16C__|__FMA__|__aarch64__|__ARM_NEON/;
    const naked = sources.flatMap((path) => {
      const open: boolean[] = [];
      return read(path).split('\n').flatMap((line, i) => {
        const code = line.replace(/\/\/.*/, '');
        if (/^\s*#\s*if/.test(code)) open.push(guard.test(code));
        else if (/^\s*#\s*(elif|else)/.test(code)) open[open.length - 1] = guard.test(code);
        else if (/^\s*#\s*endif/.test(code)) open.pop();
        return processor.test(code) && !open.includes(true) ? [`${path}:${i + 1}: ${line.trim()}`] : [];
      });
    });
    expect(naked).toEqual([]);
  });
});

test(`no source file is longer than ${MAX_LINES} lines`, () => {
  const sources = ['lib', 'native', 'test', 'bench', 'scripts', 'bin', '.ci'].flatMap((folder) => filesBelow(folder, /\.(ts|mjs|js|h|cc|cuh|cu)$/));
  const long = sources.map((path) => [path, read(path).split('\n').length - 1] as const).filter(([, lines]) => lines > MAX_LINES);
  expect(long).toEqual([]);
});
