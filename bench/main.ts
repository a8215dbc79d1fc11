/**
 * Benchmarks of spkv, and of its peers beside it with --peer. Prints tables; writes bench/results/<suite>.json.
 *   npm run bench                              operations and the bundled model
 *   npm run bench -- --suite engine --peer     many requests at once, against llama.cpp's batches
 *   npm run bench -- --suite large --peer      a random Llama of 100 M parameters against llama.cpp
 *   npm run bench -- --device cuda             whole steps of networks of real sizes, on a GPU
 *   npm run bench -- --device cuda --suite capacity
 *                                              32k-token texts of an 8B network at once, pruned and dense, on a GPU
 */
import { parseArgs } from 'node:util';
import { type Device, openDevice } from '../lib/ops.js';
import { writeResults } from './harness.js';
import { commit, machine } from './machine.js';
import { capacitySuite } from './suites/capacity.js';
import { constraintsSuite } from './suites/constraints.js';
import { engineSuite } from './suites/engine.js';
import { largeSuite } from './suites/large.js';
import { modelSuite } from './suites/model.js';
import { onnxruntimeSuite } from './suites/onnxruntime.js';
import { operationsSuite } from './suites/operations.js';
import { serverSuite } from './suites/server.js';
import { stepsSuite } from './suites/steps.js';
import type { Settings, Suite } from './suites/suite.js';
import { trainingSuite } from './suites/training.js';

const SUITES: Record<string, Suite> = { ops: operationsSuite, model: modelSuite, large: largeSuite, engine: engineSuite, capacity: capacitySuite, constraints: constraintsSuite, server: serverSuite, onnxruntime: onnxruntimeSuite, steps: stepsSuite, training: trainingSuite };
/** What runs where no suite is named. */
const DEFAULT = { cpu: 'ops,model', gpu: 'steps' };
const HELP = `Usage: npm run bench -- [--suite ops|model|engine|capacity|constraints|server|onnxruntime|large|steps|training|all] [--peer] [--device cpu|cuda|cuda:N] [--threads N] [--repeats N]

  --suite    ops: single operations; model: the bundled code-6m; engine: the same with many requests
             at once; capacity: long texts at once in one pool, pruned and dense, and what the engine
             adds to a step: random weights, on a GPU those of an 8B network; constraints: texts within a JSON schema beside texts that are not; server: spkv serve with 64 clients, 10 s per repeat;
             onnxruntime: exported models on both routes, beside onnxruntime-node;
             large: a random Llama of 100 M parameters;
             steps: decode steps and prompts of networks of real sizes, for GPUs;
             training: whole training steps with random weights
             (a comma between several; default ops,model, on a GPU steps)
  --peer     run onnxruntime-node and node-llama-cpp beside, see bench/peers/README.md
  --device   where spkv computes (default cpu); the peers compute on the CPU
  --repeats  samples per figure (default 7)`;

function settings(): { names: string[]; settings: Settings } {
  const { values } = parseArgs({
    options: {
      suite: { type: 'string' },
      peer: { type: 'boolean', default: false },
      device: { type: 'string', default: 'cpu' },
      threads: { type: 'string' },
      repeats: { type: 'string', default: '7' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    process.exit(0);
  }
  const given = values.suite ?? (values.device === 'cpu' ? DEFAULT.cpu : DEFAULT.gpu);
  const names = given === 'all' ? Object.keys(SUITES) : given.split(',');
  const unknown = names.find((name) => !(name in SUITES));
  if (unknown !== undefined) throw new Error(`Unknown suite "${unknown}"\n${HELP}`);
  const repeats = Number(values.repeats);
  if (!Number.isInteger(repeats) || repeats < 1) throw new Error('Expected a positive integer for --repeats');
  const device = openDevice(values.device, values.threads === undefined ? {} : { threads: Number(values.threads) });
  return { names, settings: { device, repeats, peer: values.peer } };
}

/** 'cpu', or the name of the GPU: 'h100-80gb-hbm3'. */
function label({ name, description }: Device): string {
  if (name === 'cpu') return name;
  return description.split(',')[0]!.toLowerCase().replace(/^nvidia /, '').replaceAll(/\W+/g, '-');
}

try {
  const { names, settings: given } = settings();
  const { cpu, cores } = machine();
  console.log(`${cpu}, ${cores} cores; ${given.device.name} (${given.device.description}); commit ${commit() ?? 'unknown'}`);
  for (const name of names) {
    const results = await SUITES[name]!(given);
    const where = given.device.name === 'cpu' ? '' : ` --device ${given.device.name}`;
    const command = `npm run bench -- --suite ${name}${where}${given.peer ? ' --peer' : ''} --repeats ${given.repeats}`;
    const path = writeResults(`${label(given.device)}-${name}`, { command, device: given.device.description }, results);
    console.log(`written: ${path.slice(path.indexOf('bench/results'))}`);
  }
} catch (error) {
  console.error((error as Error).message);
  process.exit(1);
}
