// Property tests draw the same cases on every run, so that a change is judged by what it changed.
// SPKV_TEST_SEED=N draws others; SPKV_TEST_SEED=random draws new ones each time.
import fc from 'fast-check';

const given = process.env['SPKV_TEST_SEED'] ?? '1';
if (given !== 'random') {
  const seed = Number(given);
  if (!Number.isInteger(seed)) throw new Error(`Expected an integer or "random" for SPKV_TEST_SEED, but received "${given}"`);
  fc.configureGlobal({ ...fc.readConfigureGlobal(), seed });
}
