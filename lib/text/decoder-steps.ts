import { isObject, type JsonObject } from '../json.js';
import { type LibraryDecoder, ReplaceDecoder, StripDecoder } from './library.js';
import { Utf8Stream } from './utf8.js';

/**
 * A step from tokens to text that passes on what is certain at once. A token can come in several parts, the
 * first of which has `starts`; `whole` steps only work where every token comes in one part.
 */
export interface Step {
  write(text: string, starts: boolean): void;
  end(): void;
}

export type MakeStep = (next: Step) => Step;

/**
 * The steps of a decoder of a tokenizer.json, from the first to the last; undefined if there is one that cannot
 * work token by token.
 */
export function planSteps(decoder: JsonObject): MakeStep[] | undefined {
  const steps: MakeStep[] = [];
  let whole = true;
  for (const config of flatten(decoder)) {
    const step = planStep(config, whole);
    if (!step) return undefined;
    steps.push(step.make);
    whole &&= step.whole;
  }
  return steps;
}

/** A decoder and, for a sequence, the decoders in it. */
function flatten(decoder: unknown): JsonObject[] {
  if (!isObject(decoder)) return [{}];
  if (decoder.type !== 'Sequence') return [decoder];
  return Array.isArray(decoder.decoders) ? decoder.decoders.flatMap(flatten) : [];
}

/** `whole`: whether each token comes to the step in one part and, in the result, whether it leaves in one part. */
function planStep(config: JsonObject, whole: boolean): { make: MakeStep; whole: boolean } | undefined {
  switch (config.type) {
    case 'Replace':
      if (!whole && !replacesCharacters(config)) return undefined;
      return { make: (next) => new MapStep(next, new ReplaceDecoder(config)), whole: true };
    case 'Strip':
      if (whole) return { make: (next) => new MapStep(next, new StripDecoder(config)), whole: true };
      if (config.stop) return undefined;
      return { make: (next) => new StripStartStep(next, String(config.content ?? ''), Number(config.start ?? 0)), whole };
    case 'Metaspace': {
      const replacement = String(config.replacement ?? '\u2581');
      if (!whole && replacement.length !== 1) return undefined;
      return { make: (next) => new MetaspaceStep(next, replacement), whole };
    }
    case 'ByteFallback':
      return whole ? { make: (next) => new ByteFallbackStep(next), whole: false } : undefined;
    case 'Fuse':
      return { make: (next) => new FuseStep(next), whole: false };
    default:
      return undefined;
  }
}

/** Whether a Replace step does the same to the parts of a token as to the token: it replaces single characters. */
function replacesCharacters({ pattern, content }: JsonObject): boolean {
  if (!isObject(pattern) || pattern.Regex !== undefined) return false;
  return typeof pattern.String === 'string' && pattern.String.length === 1 && !String(content ?? '').includes('$');
}

/** A decoder of the library that treats every token by itself. */
class MapStep implements Step {
  readonly #next: Step;
  readonly #decoder: LibraryDecoder;

  constructor(next: Step, decoder: LibraryDecoder) {
    this.#next = next;
    this.#decoder = decoder;
  }

  write(text: string, starts: boolean): void {
    this.#next.write(this.#decoder.decode_chain([text])[0]!, starts);
  }

  end(): void {
    this.#next.end();
  }
}

/** Leaves out up to `count` times `content` at the beginning of every token. */
class StripStartStep implements Step {
  readonly #next: Step;
  readonly #content: string;
  readonly #count: number;
  #left = 0;

  constructor(next: Step, content: string, count: number) {
    this.#next = next;
    this.#content = content;
    this.#count = count;
  }

  write(text: string, starts: boolean): void {
    if (starts) this.#left = this.#count;
    let cut = 0;
    while (this.#left > 0 && cut < text.length) {
      if (text[cut] === this.#content) {
        cut++;
        this.#left--;
      } else this.#left = 0;
    }
    this.#next.write(text.slice(cut), starts);
  }

  end(): void {
    this.#next.end();
  }
}

/** Turns the replacement back into spaces; one at the beginning of the first token was not in the text. */
class MetaspaceStep implements Step {
  readonly #next: Step;
  readonly #replacement: string;
  #tokens = 0;
  #atStart = true;

  constructor(next: Step, replacement: string) {
    this.#next = next;
    this.#replacement = replacement;
  }

  write(text: string, starts: boolean): void {
    if (starts && ++this.#tokens > 1) this.#atStart = false;
    let spaced = text.replaceAll(this.#replacement, ' ');
    if (this.#atStart && spaced !== '') {
      this.#atStart = false;
      if (spaced.startsWith(' ')) spaced = spaced.slice(1);
    }
    this.#next.write(spaced, starts);
  }

  end(): void {
    this.#next.end();
  }
}

/** Makes one token of every run of byte tokens (`<0xE3>`). */
class ByteFallbackStep implements Step {
  readonly #next: Step;
  #run: Utf8Stream | undefined;

  constructor(next: Step) {
    this.#next = next;
  }

  write(text: string): void {
    const byte = text.length === 6 && text.startsWith('<0x') && text.endsWith('>') ? Number.parseInt(text.slice(3, 5), 16) : Number.NaN;
    if (Number.isNaN(byte)) {
      this.#endRun();
      this.#next.write(text, true);
      return;
    }
    const starts = this.#run === undefined;
    this.#run ??= new Utf8Stream({ dropBom: true });
    this.#next.write(this.#run.push([byte]), starts);
  }

  end(): void {
    this.#endRun();
    this.#next.end();
  }

  #endRun(): void {
    if (this.#run) this.#next.write(this.#run.flush(), false);
    this.#run = undefined;
  }
}

/** Makes one token of all. */
class FuseStep implements Step {
  readonly #next: Step;
  #begun = false;

  constructor(next: Step) {
    this.#next = next;
  }

  write(text: string): void {
    this.#next.write(text, !this.#begun);
    this.#begun = true;
  }

  end(): void {
    this.#next.end();
  }
}
