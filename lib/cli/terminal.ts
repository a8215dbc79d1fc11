import type { WriteStream } from 'node:tty';
import type { Rgb } from '../heat-color.js';

/** Bits of colour: 1 none, 4 and 8 a palette, 24 true colour. */
export type ColorDepth = 1 | 4 | 8 | 24;

/** How many colours a stream shows. NO_COLOR and --no-color win, then FORCE_COLOR, then the terminal itself. */
export function colorDepth(stream: NodeJS.WriteStream, allowed = true, env: NodeJS.ProcessEnv = process.env): ColorDepth {
  if (!allowed || env['NO_COLOR']) return 1;
  const forced = env['FORCE_COLOR'];
  if (forced !== undefined) return ({ '0': 1, false: 1, '2': 8, '3': 24 } as const)[forced] ?? 4;
  return stream.isTTY ? ((stream as WriteStream).getColorDepth(env) as ColorDepth) : 1;
}

/** Marks text for a terminal; without colours it leaves text as it is. */
export class Style {
  constructor(readonly depth: ColorDepth) {}

  bold(text: string): string {
    return this.#wrap('1', text, '22');
  }

  dim(text: string): string {
    return this.#wrap('2', text, '22');
  }

  /** A heading or generated text. */
  accent(text: string): string {
    return this.#wrap('36', text, '39');
  }

  good(text: string): string {
    return this.#wrap('32', text, '39');
  }

  bad(text: string): string {
    return this.#wrap('31', text, '39');
  }

  /** True when {@link block} can show a colour. */
  get hasBlocks(): boolean {
    return this.depth >= 8;
  }

  /** Text on a coloured ground, black or white, whichever is easier to read. */
  block(text: string, ground: Rgb): string {
    const [r, g, b] = ground;
    const ink: Rgb = 0.299 * r + 0.587 * g + 0.114 * b > 140 ? [0, 0, 0] : [255, 255, 255];
    return `\x1b[48;${this.#color(ground)};38;${this.#color(ink)}m${text}\x1b[0m`;
  }

  #color([r, g, b]: Rgb): string {
    if (this.depth === 24) return `2;${r};${g};${b}`;
    const level = (value: number) => Math.round((value / 255) * 5);
    return `5;${16 + 36 * level(r) + 6 * level(g) + level(b)}`; // the 6 × 6 × 6 cube of the 256-colour palette
  }

  #wrap(on: string, text: string, off: string): string {
    return this.depth > 1 ? `\x1b[${on}m${text}\x1b[${off}m` : text;
  }
}

/** Columns of the terminal, 80 where there is none. */
export function columns(stream: NodeJS.WriteStream = process.stdout): number {
  return stream.columns || 80;
}
