import { create, heat, percent } from './elements.js';

/** @typedef {import('./answer.js').Answer} Answer */

/** From so many heads on, cells are too small for numbers. */
const MANY = 9;

/** Layers × heads, each coloured by the share that it keeps: a table of buttons, of which one may be pressed. */
export class HeatGrid {
  #heads;
  #onChoose;
  /** @type {HTMLButtonElement[]} */
  #cells = [];
  /** @type {number | undefined} */
  #chosen;

  /**
   * @param {HTMLElement} element
   * @param {{ layers: number, heads: number }} geometry
   * @param {(list: number | undefined) => void} onChoose told the layer and head that is chosen
   */
  constructor(element, { layers, heads }, onChoose) {
    this.#heads = heads;
    this.#onChoose = onChoose;
    const table = create('table', heads < MANY ? 'heat-grid' : 'heat-grid small');
    const caption = create('caption', 'spoken', 'Share of the pairs that each layer and head keeps');
    const names = Array.from({ length: heads }, (_, head) => header('col', `head ${head}`, heads < MANY ? `head ${head}` : String(head)));
    table.append(caption, create('thead', '', create('tr', '', create('td'), ...names)));
    const body = create('tbody');
    for (let layer = 0; layer < layers; layer++) {
      const row = create('tr', '', header('row', `layer ${layer}`, heads < MANY ? `layer ${layer}` : String(layer)));
      for (let head = 0; head < heads; head++) row.append(create('td', '', this.#cell()));
      body.append(row);
    }
    table.append(body);
    table.addEventListener('keydown', (event) => this.#key(event));
    element.replaceChildren(table);
  }

  /** @param {Answer} answer */
  update(answer) {
    for (const [list, cell] of this.#cells.entries()) {
      const share = answer.share(list);
      const known = !Number.isNaN(share);
      cell.className = known ? heat(share) : '';
      cell.textContent = known ? percent(share) : '–';
      cell.title = `${this.name(list)}: ${known ? `keeps ${percent(share)}` : 'nothing read yet'}`;
    }
  }

  /** Marks those that keep a token; undefined: none is looked at. @param {Uint8Array | undefined} keeps */
  mark(keeps) {
    for (const [list, cell] of this.#cells.entries()) cell.classList.toggle('keeps', keeps?.[list] === 1);
  }

  /** @param {number} list */
  name(list) {
    return `layer ${Math.floor(list / this.#heads)}, head ${list % this.#heads}`;
  }

  #cell() {
    const list = this.#cells.length;
    const cell = create('button', '', '–');
    cell.type = 'button';
    cell.tabIndex = list === 0 ? 0 : -1;
    cell.ariaPressed = 'false';
    cell.addEventListener('click', () => this.#choose(this.#chosen === list ? undefined : list));
    this.#cells.push(cell);
    return cell;
  }

  /** @param {number | undefined} list */
  #choose(list) {
    if (this.#chosen !== undefined) this.#cells[this.#chosen].ariaPressed = 'false';
    this.#chosen = list;
    if (list !== undefined) this.#cells[list].ariaPressed = 'true';
    this.#onChoose(list);
  }

  /** Arrow keys go from cell to cell. @param {KeyboardEvent} event */
  #key(event) {
    const from = this.#cells.indexOf(/** @type {HTMLButtonElement} */ (event.target));
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.#heads, ArrowDown: this.#heads }[event.key];
    if (step === undefined || from < 0 || !(from + step in this.#cells)) return;
    event.preventDefault();
    this.#cells[from].tabIndex = -1;
    this.#cells[from + step].tabIndex = 0;
    this.#cells[from + step].focus();
  }
}

/** @param {'row' | 'col'} scope @param {string} name @param {string} shown */
function header(scope, name, shown) {
  const cell = create('th', '', shown);
  cell.scope = scope;
  if (shown !== name) cell.ariaLabel = name;
  return cell;
}
