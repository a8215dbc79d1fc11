// The tests that need a browser: npm run test:browser.
import base from './jest.config.mjs';

export default { ...base, testMatch: ['**/*.browser.ts'] };
