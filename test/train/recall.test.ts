import { loadTokenizer } from '../../lib/text/tokenizer.js';
import { Needles } from '../../lib/train/data/needles.js';
import { prepareTokens } from '../../lib/train/data/prepare.js';
import { Rows } from '../../lib/train/data/rows.js';
import { findFiles } from '../../lib/train/data/sources.js';
import { documentsOf } from '../../lib/train/data/split.js';
import { measureRecall } from '../../lib/train/recall.js';
import { testDevice } from '../support/device.js';
import { temporaryDirectory } from '../support/files.js';
import { MODEL_DIR } from '../support/golden.js';

const dir = temporaryDirectory();

test('a model remembers the notes that it keeps, and not those that it drops', async () => {
  const tokenizer = (await loadTokenizer(MODEL_DIR))!;
  const files = await findFiles([{ path: 'models/sample.py' }, { path: 'bench/cuda', pattern: '*.py' }]);
  await using tokens = await prepareTokens({
    dir, files, encoding: { tokenizer, vocabSize: 320, documentStart: [0], documentEnd: [] }, skipBad: false,
  });
  const rows = new Rows(tokens, documentsOf(tokens), { sequenceLength: 2400, boundaries: false, seed: 1, shuffle: true });
  const needles = new Needles(rows, tokenizer, 2);
  const read = await Promise.all([0, 1].map((i) => needles.read(i)));
  using device = testDevice();
  const [kept, dropped] = await measureRecall(MODEL_DIR, device, read, [0.5, 1.01]);
  expect(kept!.recall).toBeGreaterThan(0.8);
  expect(kept!.density).toBeLessThan(0.8);
  expect(dropped).toMatchObject({ density: 0 });
  expect(dropped!.recall).toBeLessThan(0.2);
});
