import type { LogRecord, StartRecord, StepRecord, ValidationRecord } from '../log.js';
import { heatGrid } from './grid.js';
import { lineChart, type Series } from './line-chart.js';
import { element, escape, tickText } from './svg.js';

/** Columns of a map over time. */
const MOST_COLUMNS = 60;

const STYLE = `
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --faint: #8886; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #161616; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 760px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
svg { width: 100%; height: auto; display: block; } text { fill: currentColor; font-size: 11px; }
.tick { text-anchor: middle; opacity: .75; } .tick.y { text-anchor: end; } .label { text-anchor: middle; } .grid { stroke: var(--faint); stroke-width: .6; }
.legend { margin: .2rem 0 0 3.4rem; font-size: 13px; } .legend span { margin-right: 1.2rem; white-space: nowrap; } .legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; border-radius: 2px; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: .15rem .9rem .15rem 0; text-align: left; font-weight: normal; vertical-align: top; } th { opacity: .75; }
`;

/** The report of a run as one HTML page that needs nothing else: no scripts, no network. */
export function reportPage(records: readonly LogRecord[], title: string): string {
  const start = records.findLast((record): record is StartRecord => record.kind === 'start');
  const steps = records.filter((record): record is StepRecord => record.kind === 'step');
  const validations = records.filter((record): record is ValidationRecord => record.kind === 'validation');
  const sections = [
    section('Loss, nats per token', lineChart(lossSeries(steps, validations))),
    section('Density: share of pairs kept after the window', lineChart(densitySeries(steps, validations), { from: 0 })),
    section('Density by layer and head over time', densityMap(validations)),
    section('Utilities at the end: share in each range', histogramMap(validations.at(-1))),
    section('Recall of notes by the finished model', recallTable(records)),
    section('Learning rate', lineChart([over(steps, 'learning rate', ({ learningRate }) => learningRate)], { from: 0 })),
    section('Alpha: from soft gates (0) to hard ones (1)', steps.some(({ mode }) => mode !== 'dense') ? lineChart([over(steps, 'alpha', ({ alpha }) => alpha)], { from: 0 }) : ''),
    section('Norm of the gradient', lineChart([over(steps, 'norm', ({ gradientNorm }) => gradientNorm)], { from: 0 })),
    section('Tokens per second', lineChart([over(steps, 'tokens/s', ({ tokensPerSecond }) => tokensPerSecond)], { from: 0 })),
    section('Settings', start ? settingsTable(start) : ''),
  ];
  const body = element('h1', {}, escape(title)) + summary(start, steps, validations) + sections.join('\n');
  return `<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n<title>${escape(title)}</title>\n<style>${STYLE}</style>\n${body}\n</html>\n`;
}

function section(title: string, content: string): string {
  return content === '' ? '' : `${element('h2', {}, escape(title))}\n${content}`;
}

function over<T extends { step: number }>(records: readonly T[], name: string, value: (record: T) => number): Series {
  return { name, points: records.map((record) => [record.step, value(record)]) };
}

function lossSeries(steps: readonly StepRecord[], validations: readonly ValidationRecord[]): Series[] {
  const marked = (series: Series): Series => ({ ...series, marked: true });
  const soft = validations.filter((record) => record.soft !== null);
  return [
    over(steps, 'training', ({ loss }) => loss),
    marked(over(validations, 'validation, gates open', ({ dense }) => dense)),
    marked(over(soft, 'validation, soft', (record) => record.soft!)),
    ...hardSeries(validations, 'validation, τ', ({ loss }) => loss),
  ].filter(({ points }) => points.length > 0);
}

function densitySeries(steps: readonly StepRecord[], validations: readonly ValidationRecord[]): Series[] {
  const gated = steps.filter(({ density }) => density !== null);
  const training = over(gated, 'training', ({ density }) => density!);
  return [training, ...hardSeries(validations, 'validation, τ', ({ density }) => density)].filter(({ points }) => points.length > 0);
}

function hardSeries(validations: readonly ValidationRecord[], name: string, value: (hard: ValidationRecord['hard'][number]) => number): Series[] {
  const thresholds = [...new Set(validations.flatMap(({ hard }) => hard.map(({ threshold }) => threshold)))].sort((a, b) => a - b);
  return thresholds.map((threshold) => ({
    name: `${name} ${threshold}`,
    marked: true,
    points: validations.flatMap(({ step, hard }) => hard.filter((result) => result.threshold === threshold).map((result) => [step, value(result)] as const)),
  }));
}

function densityMap(validations: readonly ValidationRecord[]): string {
  const measured = validations.filter(({ densities }) => densities !== null);
  if (measured.length === 0) return '';
  const every = Math.ceil(measured.length / MOST_COLUMNS);
  const shown = measured.filter((_, i) => (measured.length - 1 - i) % every === 0); // the last is always among them
  const rows = headNames(shown[0]!.densities!);
  const values = rows.map((_, row) => shown.map(({ densities }) => densities!.flat()[row]!));
  return heatGrid({ rows, columns: shown.map(({ step }) => String(step)), values, columnLabel: 'step' });
}

function histogramMap(validation: ValidationRecord | undefined): string {
  const histograms = validation?.histograms;
  if (!histograms) return '';
  const values = histograms.flat();
  const bins = values[0]!.length;
  const columns = Array.from({ length: bins }, (_, i) => tickText(i / bins));
  return heatGrid({ rows: headNames(histograms), columns, values, columnLabel: 'utility from' });
}

function recallTable(records: readonly LogRecord[]): string {
  const last = records.findLast((record) => record.kind === 'recall');
  if (!last) return '';
  const rows = last.results.map(({ threshold, recall, density }) => `<tr><th>τ ${threshold}</th><td>${(100 * recall).toFixed(1)} % at ${(100 * density).toFixed(0)} % kept</td></tr>`);
  return element('table', {}, rows.join(''));
}

function headNames(byLayer: readonly (readonly unknown[])[]): string[] {
  return byLayer.flatMap((heads, layer) => heads.map((_, head) => `layer ${layer}, ${head}`));
}

function summary(start: StartRecord | undefined, steps: readonly StepRecord[], validations: readonly ValidationRecord[]): string {
  const last = steps.at(-1);
  if (!start || !last) return '';
  const parts = [`${tickText(last.step)} of ${tickText(start.steps)} steps, ${last.tokens.toLocaleString('en-US')} tokens, loss ${last.loss.toFixed(4)}`];
  const validation = validations.at(-1);
  if (validation) {
    const hard = validation.hard.map(({ threshold, loss, density }) => `${loss.toFixed(4)} at τ ${threshold} (${(100 * density).toFixed(0)} % kept)`);
    parts.push(`validation ${validation.dense.toFixed(4)} with gates open${hard.length > 0 ? `, ${hard.join(', ')}` : ''}`);
  }
  return element('p', {}, `${escape(parts.join('; '))}. ${escape(start.ranks > 1 ? `${start.ranks} × ${start.device}` : start.device)}.`);
}

function settingsTable({ settings, parameters, trainingTokens }: StartRecord): string {
  const rows = Object.entries({ parameters, trainingTokens, ...settings }).map(([name, value]) => {
    const text = typeof value === 'string' ? value : JSON.stringify(value);
    return element('tr', {}, element('th', {}, escape(name)) + element('td', {}, escape(text)));
  });
  return element('table', {}, rows.join(''));
}
