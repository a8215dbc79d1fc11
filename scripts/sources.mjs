// Lists native sources for binding.gyp: `node scripts/sources.mjs isa|common`.
// Sources in native/cpu with SPKV_ISA_BEGIN are compiled once per instruction set, all others once.
import { readFileSync, readdirSync } from 'node:fs';

const isIsa = (file) => readFileSync(file, 'utf8').includes('SPKV_ISA_BEGIN');
const list = (dir) => readdirSync(dir).filter((name) => name.endsWith('.cc')).sort().map((name) => `${dir}/${name}`);

const cpu = list('native/cpu');
const sources =
  process.argv[2] === 'isa'
    ? cpu.filter(isIsa)
    : [...list('native/core'), ...cpu.filter((file) => !isIsa(file)), ...list('native/onnxruntime'), ...list('native/binding')];
console.log(sources.join(' '));
