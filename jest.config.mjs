// Tests compute on the CPU unless they name another device, also where a CUDA library has been built.
process.env.SPKV_CUDA_LIBRARY ??= 'none';

export default {
  testEnvironment: 'node',
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  // Those for several GPUs run where SPKV_TEST_GPUS says that there are some.
  testPathIgnorePatterns: ['/node_modules/', ...(process.env.SPKV_TEST_GPUS ? [] : ['/gpus\\.test\\.ts$'])],
  setupFiles: ['<rootDir>/test/support/seed.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: {
    '^.+\\.ts$': ['@swc/jest', { jsc: { target: 'es2022', parser: { syntax: 'typescript' } }, module: { type: 'es6' } }],
  },
  // Ends what hangs; what is only slow, on a busy machine or under a sanitizer, may take its time.
  testTimeout: 300_000,
};
