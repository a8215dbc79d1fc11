import { options as checkOptions } from './check.js';
import type { ConstraintSource } from './constrain/compile.js';
import { Compiler } from './constrain/compiler.js';
import type { Constraint } from './constrain/constraint.js';
import { SpkvError } from './errors.js';
import { generate, type GenerateOptions, type Generation } from './generate.js';
import { loadNetwork, type ModelOptions } from './model/load.js';
import { Model } from './model/model.js';
import { Session } from './session.js';
import { type ChatMessage, type ChatTemplate, loadChatTemplate } from './text/chat-template.js';
import { loadTokenizer, type Tokenizer } from './text/tokenizer.js';

/**
 * Loads a Hugging Face checkpoint directory: config.json, safetensors, and, for text, tokenizer.json. Without
 * a tokenizer the model works with token ids.
 *
 *   const model = await loadModel(BUNDLED_MODEL);
 *   for await (const piece of model.generate('def main():\n')) process.stdout.write(piece);
 *
 * Errors: FILE, UNSUPPORTED, OUT_OF_MEMORY, NATIVE, INVALID_ARGUMENT; the reason of `signal`.
 */
export async function loadModel(dir: string, options?: ModelOptions): Promise<TextModel> {
  const { checkpoint, device, network, options: given } = await loadNetwork(dir, options);
  try {
    const tokenizer = await loadTokenizer(dir);
    const template = tokenizer ? await loadChatTemplate(dir) : undefined;
    return new TextModel(checkpoint, device, network, given, tokenizer, template);
  } catch (error) {
    network.dispose();
    if (device !== given.device) device.dispose();
    throw error;
  }
}

/** A model that reads and writes text. */
export class TextModel extends Model {
  /** Undefined where the checkpoint has no tokenizer.json. */
  readonly tokenizer: Tokenizer | undefined;
  /** Undefined where the checkpoint has none. */
  readonly chatTemplate: ChatTemplate | undefined;
  #compiler: Compiler | undefined;

  /** @internal Use {@link loadModel}. */
  constructor(
    ...[checkpoint, device, network, given, tokenizer, template]: [
      ...ConstructorParameters<typeof Model>, tokenizer: Tokenizer | undefined, template: ChatTemplate | undefined,
    ]
  ) {
    super(checkpoint, device, network, given);
    this.tokenizer = tokenizer;
    this.chatTemplate = template;
  }

  /** Token ids of a text, with the special tokens that the tokenizer adds to a prompt. Errors: UNSUPPORTED without a tokenizer. */
  encode(text: string): number[] {
    return [...this.#needTokenizer().encode(text)];
  }

  /** The text of token ids. Errors: UNSUPPORTED without a tokenizer. */
  decode(ids: readonly number[]): string {
    return this.#needTokenizer().decode(ids);
  }

  /** Token ids of a conversation, up to where the answer begins. Errors: UNSUPPORTED without a chat template; INVALID_ARGUMENT where it refuses the messages. */
  encodeChat(messages: readonly ChatMessage[]): number[] {
    if (!this.chatTemplate) throw new SpkvError('UNSUPPORTED', 'The checkpoint has no chat template');
    const text = this.chatTemplate.apply(messages, { addGenerationPrompt: true });
    return [...this.#needTokenizer().encode(text, { addSpecialTokens: false })];
  }

  /**
   * Continues a prompt (text, or token ids), piece by piece; pieces are whole characters.
   * The result, with usage and what the cache kept, is there when the loop has ended.
   */
  generate(prompt: string | readonly number[], options?: GenerateOptions): Generation {
    return generate(this, prompt, options);
  }

  /**
   * Makes a constraint of texts: JSON that fits a JSON schema, or what a regular expression describes as a whole. It is
   * made in a thread of its own and kept for those who ask for the same. Errors: INVALID_ARGUMENT; UNSUPPORTED, with the
   * keyword or the syntax and its place; OVERLOADED when many others wait.
   *
   *   const constraint = await model.constrain({ jsonSchema: { type: 'object', properties: { name: { type: 'string' } } } });
   *   const text = await model.generate(prompt, { constraint }).text();
   */
  async constrain(source: ConstraintSource): Promise<Constraint> {
    const { vocabSize, eosTokenIds } = this.config;
    this.#compiler ??= new Compiler({ dir: this.checkpoint.dir, tokenizer: this.#needTokenizer(), vocabSize, eosTokenIds });
    return this.#compiler.compile(source);
  }

  /** Frees everything. Who waits for a constraint is told DISPOSED. */
  override dispose(): void {
    void this.#compiler?.dispose();
    super.dispose();
  }

  /** A text that grows turn by turn and is read only once. */
  createSession(options?: { threshold?: number }): Session {
    const { threshold = this.threshold } = checkOptions(options, 'session options', ['threshold']);
    return new Session(this, threshold);
  }

  #needTokenizer(): Tokenizer {
    if (this.tokenizer) return this.tokenizer;
    throw new SpkvError('UNSUPPORTED', 'The checkpoint has no tokenizer.json: give token ids instead of text');
  }
}
