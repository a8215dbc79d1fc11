/** How much one new measurement counts against those before. */
const WEIGHT = 0.2;

/** Running means of what was measured: the engine's choices follow the machine it is on. */
export class Rates {
  /** Milliseconds per prompt token. */
  readonly read = new Rate(0.1);
  /** Milliseconds per step that only writes. */
  readonly write = new Rate(1);
  /** Milliseconds per byte of a state that is saved, and restored later. */
  readonly save = new Rate(4e-6);
}

export class Rate {
  #value: number;
  #measured = false;

  /** `guess` is used until there is a measurement. */
  constructor(guess: number) {
    this.#value = guess;
  }

  get value(): number {
    return this.#value;
  }

  note(value: number): void {
    this.#value = this.#measured ? value * WEIGHT + this.#value * (1 - WEIGHT) : value;
    this.#measured = true;
  }
}
