import { create, heat } from './elements.js';

/** @typedef {import('./answer.js').Answer} Answer */

/** The text of an answer, coloured by how much of each token is kept. It grows with the answer. */
export class HeatText {
  #element;
  #onToken;
  /** @type {Answer | undefined} */
  #answer;
  /** @type {HTMLElement[]} */
  #tokens = [];
  /** Tokens that are shown as having left the window. */
  #left = 0;
  /** @type {number | undefined} */
  #list;
  /** @type {number | undefined} */
  #cursor;
  /** What is written and not judged yet: without a colour, at the end of the last line. */
  #tail = create('span', 'tail');
  #line = create('div');

  /** @param {HTMLElement} element @param {(token: number | undefined) => void} onToken told the token that is looked at */
  constructor(element, onToken) {
    this.#element = element;
    this.#onToken = onToken;
    element.addEventListener('keydown', (event) => this.#key(event));
    element.addEventListener('mouseover', (event) => this.#look(this.#tokens.indexOf(/** @type {HTMLElement} */ (event.target))));
    element.addEventListener('mouseleave', () => this.#look(-1));
    element.addEventListener('blur', () => this.#look(-1));
  }

  /** Begins with an answer anew. @param {Answer} answer */
  begin(answer) {
    this.#answer = answer;
    this.#tokens = [];
    this.#left = 0;
    this.#look(-1);
    this.#line = create('div');
    this.#element.replaceChildren(this.#line);
  }

  /** Shows what has come since. */
  update() {
    const answer = this.#answer;
    if (!answer) return;
    const { scrollTop, scrollHeight, clientHeight } = this.#element;
    const following = scrollHeight - clientHeight - scrollTop < 40;
    const lines = document.createDocumentFragment();
    for (let i = this.#tokens.length; i < answer.tokens.length; i++) {
      const { text } = answer.tokens[i];
      // Each line is an element of its own, so that a browser lays out only what changes and draws only what is seen.
      const ends = text.endsWith('\n');
      const token = create('span', '', ends ? text.slice(0, -1) : text);
      this.#tokens.push(token);
      this.#paint(i);
      this.#line.append(token);
      if (ends) lines.append((this.#line = create('div')));
    }
    this.#element.append(lines);
    this.#tail.textContent = answer.tail;
    this.#line.append(this.#tail);
    for (; this.#left < answer.left; this.#left++) this.#paint(this.#left);
    if (following) this.#element.scrollTop = this.#element.scrollHeight;
  }

  /** Shows what one layer and head keeps; undefined: all of them. @param {number | undefined} list */
  through(list) {
    this.#list = list;
    for (const i of this.#tokens.keys()) this.#paint(i);
  }

  /** @param {number} i */
  #paint(i) {
    const answer = /** @type {Answer} */ (this.#answer);
    const { text, special, written } = answer.tokens[i];
    const share = answer.keptBy(i, this.#list);
    const classes = { special, written, line: text.endsWith('\n'), gone: i < answer.left && share === 0, cursor: i === this.#cursor };
    this.#tokens[i].className = [heat(share), ...Object.entries(classes).flatMap(([name, has]) => (has ? name : []))].join(' ');
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || this.#tokens.length === 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const last = this.#tokens.length - 1;
    let at = this.#cursor === undefined ? (step > 0 ? (step === 1 ? 0 : last) : step === -1 ? last : 0) : Math.min(last, Math.max(0, this.#cursor + step));
    // Parts of a character have no text of their own.
    while (this.#tokens[at].textContent === '' && at + Math.sign(step) in this.#tokens) at += Math.sign(step);
    this.#look(at);
    this.#tokens[at].scrollIntoView({ block: 'nearest' });
  }

  /** @param {number} i -1: at none */
  #look(i) {
    const at = i < 0 ? undefined : i;
    if (at === this.#cursor) return;
    const before = this.#cursor;
    this.#cursor = at;
    for (const each of [before, at]) if (each !== undefined && each < this.#tokens.length) this.#paint(each);
    this.#onToken(at);
  }
}
