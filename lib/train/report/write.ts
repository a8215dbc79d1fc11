import { basename, join } from 'node:path';
import type { RunLog } from '../log.js';
import { writeWhole } from '../../write.js';
import { reportPage } from './page.js';

/** Writes the report of a run beside its log. */
export async function writeReport(dir: string, log: RunLog): Promise<void> {
  await writeWhole(join(dir, 'report.html'), reportPage(await log.read(), `Training of ${basename(dir)}`));
}
