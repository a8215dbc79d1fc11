// Adds up the counts of all jest runs in a folder and prints them as the last line of CI. A suite that could not
// run counts as one failed test, and so does a run that left no result.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const runs = readdirSync(process.argv[2]).filter((name) => name.endsWith('.json'));
let passed = 0;
let failed = runs.length > 0 ? 0 : 1;
let skipped = 0;
for (const name of runs) {
  const text = readFileSync(join(process.argv[2], name), 'utf8');
  if (text === '') {
    failed++;
    continue;
  }
  const run = JSON.parse(text);
  passed += run.numPassedTests;
  failed += run.numFailedTests + run.numRuntimeErrorTestSuites;
  skipped += run.numPendingTests + run.numTodoTests;
}
console.log(`tests: ${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
