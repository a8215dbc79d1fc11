import { leaveQuietlyOnClosedPipe, report } from './exit.js';
import { createProgram } from './program.js';

leaveQuietlyOnClosedPipe();
try {
  await createProgram().parseAsync();
} catch (error) {
  process.exitCode = report(error);
}
