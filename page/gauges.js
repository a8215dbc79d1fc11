import { get } from './api.js';
import { byId, count, create, percent, size } from './elements.js';

const EVERY_MS = 1000;
/** Moments that the line of the speed shows. */
const MOMENTS = 60;

/** Numbers with names. */
export class Figures {
  #list;
  /** @type {Map<string, HTMLElement>} */
  #values = new Map();

  /** @param {string} id of a <dl> */
  constructor(id) {
    this.#list = byId(id);
  }

  /** @param {string} name @param {string | Node} value */
  set(name, value) {
    let place = this.#values.get(name);
    if (!place) {
      place = create('dd');
      this.#values.set(name, place);
      this.#list.append(create('div', '', create('dt', '', name), place));
    }
    if (typeof value !== 'string' ? place.firstChild !== value : place.textContent !== value) place.replaceChildren(value);
  }
}

/** What the server does, asked for every second as long as somebody looks. */
export class Gauges {
  #figures = new Figures('server-figures');
  #meter = create('span', 'meter', create('span'));
  #line = new SpeedLine();
  #speed = create('span', '', '–');
  /** @type {{ at: number, written: number } | undefined} */
  #before;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  constructor() {
    this.#meter.role = 'meter';
    this.#meter.ariaValueMin = '0';
    this.#meter.ariaLabel = 'Pages in use';
    document.addEventListener('visibilitychange', () => this.start());
  }

  start() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    this.#before = undefined;
    void this.#ask();
  }

  async #ask() {
    try {
      this.#show(await get('/stats'));
    } catch {
      this.#figures.set('Texts', 'The server does not answer');
      this.#before = undefined;
    }
    if (!document.hidden) this.#timer = setTimeout(() => void this.#ask(), EVERY_MS);
  }

  /** @param {any} stats as the document of the API has it */
  #show({ requests, texts, tokens, pool, density }) {
    const now = performance.now();
    if (this.#before) {
      const speed = (tokens.written - this.#before.written) / ((now - this.#before.at) / 1000);
      this.#line.add(speed);
      this.#speed.textContent = count(speed);
    }
    this.#before = { at: now, written: tokens.written };
    const { reading, writing, paused } = texts;
    this.#figures.set('Texts', `${reading + writing + paused} running, ${requests.waiting} waiting`);
    this.#figures.set('Tokens/s', this.#rate);
    const used = /** @type {HTMLElement} */ (this.#meter.firstElementChild);
    used.style.width = `${(100 * pool.used_pages) / pool.capacity_pages}%`;
    this.#meter.ariaValueMax = String(pool.capacity_pages);
    this.#meter.ariaValueNow = String(pool.used_pages);
    this.#figures.set('Pool', this.#pool);
    this.#pages.textContent = `${count(pool.used_pages)} of ${count(pool.capacity_pages)} pages, ${size(pool.used_pages * pool.page_bytes)}`;
    this.#figures.set('Kept', requests.finished > 0 ? `${percent(density)} in all answers` : '–');
    this.#figures.set('Reused', `${count(tokens.cached)} tokens of prompts`);
  }

  #rate = create('span', 'rate', this.#speed, this.#line.element);
  #pages = create('span');
  #pool = create('span', 'pool', this.#pages, this.#meter);
}

/** How many there were a second, in the last second. */
export class Rate {
  /** @type {{ at: number, number: number }[]} */
  #moments = [];

  /** @param {number} number */
  add(number) {
    const now = performance.now();
    this.#moments.push({ at: now, number });
    while (this.#moments[0].at < now - 1000) this.#moments.shift();
  }

  get value() {
    const [first, ...later] = this.#moments;
    const span = (later.at(-1)?.at ?? 0) - first.at;
    return span > 200 ? (1000 * later.reduce((sum, { number }) => sum + number, 0)) / span : 0;
  }
}

/** The speed of the last minute as a line. */
class SpeedLine {
  element = svg('svg', { viewBox: `0 0 ${MOMENTS} 20`, preserveAspectRatio: 'none', class: 'line', 'aria-hidden': 'true' });
  #path = svg('polyline', { points: '', fill: 'none', 'vector-effect': 'non-scaling-stroke' });
  /** @type {number[]} */
  #speeds = [];

  constructor() {
    this.element.append(this.#path);
  }

  /** @param {number} speed */
  add(speed) {
    this.#speeds = [...this.#speeds, speed].slice(-MOMENTS);
    const most = Math.max(1, ...this.#speeds);
    const start = MOMENTS - this.#speeds.length;
    this.#path.setAttribute('points', this.#speeds.map((value, i) => `${start + i + 0.5},${(19 - (18 * value) / most).toFixed(2)}`).join(' '));
  }
}

/** @param {string} name @param {Record<string, string>} attributes */
function svg(name, attributes) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
