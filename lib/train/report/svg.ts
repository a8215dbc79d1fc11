/** One element of SVG or HTML. `content` must be markup already. */
export function element(name: string, attributes: Readonly<Record<string, string | number>>, content = ''): string {
  const list = Object.entries(attributes).map(([key, value]) => ` ${key}="${typeof value === 'string' ? escape(value) : value}"`);
  return `<${name}${list.join('')}>${content}</${name}>`;
}

/** Text as markup. */
export function escape(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return text.replace(/[&<>"']/g, (char) => names[char]!);
}

/** A coordinate: a tenth of a pixel is enough. */
export function round(value: number): number {
  return Math.round(value * 10) / 10;
}

/** Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], about `count` of them. */
export function ticks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough)!;
  const first = Math.ceil(low / step);
  const last = Math.floor(high / step);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** 0.003, 1,500, 2e-7 */
export function tickText(value: number): string {
  if (value !== 0 && Math.abs(value) < 1e-4) return value.toExponential();
  return Number(value.toPrecision(4)).toLocaleString('en-US', { maximumFractionDigits: 6 });
}
