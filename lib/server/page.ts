// The page at /: a prompt, and the heat map of what the model keeps of it. Its files are served as they lie in page/.
import { readFileSync } from 'node:fs';
import type { FastifyInstance } from 'fastify';
import { heatColor, type Rgb } from '../heat-color.js';

/** lib/server and dist/server lie equally deep, so the files are found from either. */
const FILES = new URL('../../page/', import.meta.url);
const NAMES = ['style.css', 'icon.svg', 'main.js', 'api.js', 'answer.js', 'heat-text.js', 'heat-grid.js', 'gauges.js', 'elements.js'] as const;
const KINDS = { css: 'text/css', js: 'text/javascript', svg: 'image/svg+xml' } as const;
/** A text long enough to see something dropped. */
const EXAMPLE = '../models/sample.py';
/** Shades of the heat map, of which the page names one by its number. */
const SHADES = 21;

/** Nothing but the server's own files runs, and nothing is sent elsewhere. */
const HEADERS = {
  'content-security-policy': [
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
    "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
  ].join('; '),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-cache',
};

export function pageRoutes(app: FastifyInstance): void {
  const serve = (path: string, type: string, content: string) =>
    app.get(path, { config: { open: true }, schema: { hide: true } }, async (_, reply) => {
      reply.headers(HEADERS).type(`${type}; charset=utf-8`);
      return content;
    });
  const read = (name: string) => readFileSync(new URL(name, FILES), 'utf8');
  serve('/', 'text/html', read('index.html'));
  for (const name of NAMES) serve(`/page/${name}`, KINDS[name.split('.')[1] as keyof typeof KINDS], read(name));
  serve('/page/example.txt', 'text/plain', read(EXAMPLE));
  serve('/page/heat.css', 'text/css', heatStyle());
}

/** The classes heat-0 (nothing is kept) to heat-20 (everything is). */
function heatStyle(): string {
  const shades = Array.from({ length: SHADES }, (_, i) => {
    const color = heatColor(i / (SHADES - 1));
    return `.heat-${i} { --heat: rgb(${color.join(' ')}); --heat-ink: ${luminance(color) > 0.179 ? '#000' : '#fff'}; }`;
  });
  return `${shades.join('\n')}\n`;
}

/** As WCAG defines it: above 0.179 black is easier to read on a colour than white. */
function luminance(color: Rgb): number {
  const [r, g, b] = color.map((value) => (value <= 10 ? value / 3294 : ((value / 255 + 0.055) / 1.055) ** 2.4)) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
