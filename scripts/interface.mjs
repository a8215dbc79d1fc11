// Prints the version of the interface between the addon and the CUDA library: a hash of the headers that both sides
// compile. A library that was built from others would crash; it is refused instead.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const native = resolve(dirname(fileURLToPath(import.meta.url)), '../native');
const headers = [
  ...['cache', 'communicator', 'device', 'status', 'stream', 'view'].map((name) => `core/${name}.h`),
  ...readdirSync(join(native, 'ops')).sort().map((name) => `ops/${name}`),
  'cuda/device.h',
];

export function interfaceVersion() {
  const hash = createHash('sha256');
  for (const header of headers) hash.update(readFileSync(join(native, header)));
  return `spkv-${hash.digest('hex').slice(0, 12)}`;
}

// The sanitizer build comes here through a link.
if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) console.log(interfaceVersion());
