// Elements of the page. Text is set as text: nothing that a model writes becomes markup.

/**
 * The element of index.html with an id.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} [kind]
 * @returns {T}
 */
export function byId(id, kind = /** @type {new () => T} */ (HTMLElement)) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`index.html has no ${kind.name} "${id}"`);
  return found;
}

/**
 * A new element with classes and a content.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {string} [className]
 * @param {...(string | Node)} content
 * @returns {HTMLElementTagNameMap[K]}
 */
export function create(name, className = '', ...content) {
  const element = document.createElement(name);
  if (className !== '') element.className = className;
  element.append(...content);
  return element;
}

/** The shade of a share from 0 to 1: a class of heat.css. @param {number} share */
export function heat(share) {
  return `heat-${Math.round(20 * Math.min(1, Math.max(0, share)))}`;
}

/** 0 % and 100 % only where it is exactly that. @param {number} share */
export function percent(share) {
  const rounded = Math.round(100 * share);
  return `${rounded === 100 && share < 1 ? 99 : rounded === 0 && share > 0 ? 1 : rounded} %`;
}

/** @param {number} value */
export function count(value) {
  return value.toLocaleString('en-US', { maximumFractionDigits: 0 });
}

/** @param {number} bytes */
export function size(bytes) {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; unit++) bytes /= 1024;
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

/** @param {number} milliseconds */
export function time(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
