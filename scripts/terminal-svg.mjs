// Turns coloured terminal output on stdin into an SVG picture on stdout, for the README:
//   FORCE_COLOR=3 node bin/spkv.js demo | node scripts/terminal-svg.mjs 'npm start' > docs/demo.svg
// The first argument is the command shown above the output.
import { readFileSync } from 'node:fs';

const FONT = 14;
const CELL = 8.43; // advance of one character; every run is stretched to it, so any monospace font fits
const LINE = 19;
const MARGIN = 20;
const BAR = 34;
const GROUND = '#0d1117';
const INK = '#d1d7e0';
const PALETTE = { 31: '#ff7b72', 32: '#56d364', 33: '#e3b341', 34: '#79c0ff', 35: '#d2a8ff', 36: '#76e3ea' };

/** How many characters a text has. */
const cells = (text) => [...text].length;

/** Applies one escape sequence `ESC [ codes m` to a style. */
function applyCodes(style, codes) {
  const next = { ...style };
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i];
    if (code === 0) Object.assign(next, { bold: false, dim: false, ink: undefined, ground: undefined });
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 22) next.bold = next.dim = false;
    else if (code === 39) next.ink = undefined;
    else if (code === 49) next.ground = undefined;
    else if ((code === 38 || code === 48) && codes[i + 1] === 2) {
      next[code === 38 ? 'ink' : 'ground'] = `rgb(${codes.slice(i + 2, i + 5).join(',')})`;
      i += 4;
    } else if (PALETTE[code]) next.ink = PALETTE[code];
    else throw new Error(`No picture for the escape code ${code}: is FORCE_COLOR=3 set?`);
  }
  return next;
}

/** The runs of one line: text of one style, with the column where it begins. */
function runs(line, style) {
  const result = [];
  let column = 0;
  for (const [index, part] of line.split('\x1b[').entries()) {
    const end = index === 0 ? -1 : part.indexOf('m');
    if (end >= 0) style = applyCodes(style, part.slice(0, end).split(';').map(Number));
    const text = part.slice(end + 1);
    if (text === '') continue;
    const last = result.at(-1);
    if (last && JSON.stringify(last.style) === JSON.stringify(style)) last.text += text;
    else result.push({ text, style, column });
    column += cells(text);
  }
  return { result, style, column };
}

const escape = (text) => text.replace(/[&<>]/g, (sign) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[sign]);
const round = (value) => Number(value.toFixed(2));

function drawRun({ text, style, column }, y) {
  const width = round(cells(text) * CELL);
  const x = round(MARGIN + column * CELL);
  const rect = style.ground ? `<rect x="${x}" y="${y - 14}" width="${width}" height="${LINE}" fill="${style.ground}" shape-rendering="crispEdges"/>` : '';
  const marks = [
    style.bold ? ' font-weight="bold"' : '',
    style.dim ? ' opacity="0.62"' : '',
    style.ink ? ` fill="${style.ink}"` : '',
  ].join('');
  // Browsers do not agree on what rows of spaces are: what lies between them is placed by itself.
  const words = [...text.matchAll(/\S+(?: \S+)*/g)].map(({ 0: part, index }) => {
    const place = `x="${round(x + cells(text.slice(0, index)) * CELL)}" y="${y}" textLength="${round(cells(part) * CELL)}"`;
    return `<text ${place}${marks}>${escape(part)}</text>`;
  });
  return rect + words.join('');
}

const command = process.argv[2] ?? '';
const output = readFileSync(0, 'utf8').replace(/\s+$/, '');
const lines = [`\x1b[2m$\x1b[22m \x1b[1m${command}\x1b[22m`, ...output.split('\n')];
let style = { bold: false, dim: false, ink: undefined, ground: undefined };
let widest = 0;
const body = lines.map((line, row) => {
  const drawn = runs(line, style);
  style = drawn.style;
  widest = Math.max(widest, drawn.column);
  return drawn.result.map((run) => drawRun(run, BAR + MARGIN + row * LINE)).join('');
});

const width = Math.ceil(2 * MARGIN + widest * CELL);
const height = Math.ceil(BAR + 2 * MARGIN + (lines.length - 1) * LINE);
const buttons = ['#ff5f57', '#febc2e', '#28c840'].map((fill, i) => `<circle cx="${MARGIN + 4 + i * 19}" cy="${BAR / 2 + 2}" r="5.5" fill="${fill}"/>`);
console.log(
  [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="Terminal: ${escape(command)}">`,
    `<rect width="${width}" height="${height}" rx="9" fill="${GROUND}"/>`,
    ...buttons,
    `<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="${FONT}" fill="${INK}">`,
    ...body.filter(Boolean),
    '</g>',
    '</svg>',
  ].join('\n'),
);
