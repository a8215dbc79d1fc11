import { Answer } from './answer.js';
import { ApiError, get, setKey, stream } from './api.js';
import { byId, count, create, percent, size, time } from './elements.js';
import { Figures, Gauges, Rate } from './gauges.js';
import { HeatGrid } from './heat-grid.js';
import { HeatText } from './heat-text.js';

const form = byId('ask', HTMLFormElement);
const prompt = byId('prompt', HTMLTextAreaElement);
const threshold = byId('threshold', HTMLInputElement);
const maxTokens = byId('max-tokens', HTMLInputElement);
const temperature = byId('temperature', HTMLInputElement);
const stop = byId('stop', HTMLButtonElement);
const anew = byId('anew', HTMLButtonElement);
const [turns, status, problem, focus, token] = ['turns', 'status', 'problem', 'focus', 'token'].map((id) => byId(id));
const figures = new Figures('answer-figures');
const gauges = new Gauges();

/** What /v1/models says of the model. @type {any} */
let model;
/** @type {HeatGrid} */
let grid;
let answer = new Answer({ layers: 0, heads: 0, window: 0 });
/** The conversation, in chat. @type {{ role: 'user' | 'assistant', content: string }[]} */
let messages = [];
/** @type {AbortController | undefined} */
let running;
let due = false;
/** The answer in the conversation, as long as it is written. */
const growing = create('p');

const text = new HeatText(byId('text'), (at) => {
  const found = at === undefined ? undefined : answer.tokens[at];
  grid?.mark(found?.keeps);
  token.textContent = found ? `${JSON.stringify(found.text)}: kept by ${found.keeps.reduce((a, b) => a + b, 0)} of ${found.keeps.length} heads${at !== undefined && at >= answer.left ? ', in the window' : ''}` : '';
});

/** Asks for the model, and for a key if it takes one. */
async function open() {
  try {
    model = (await get('/v1/models')).data[0];
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401) return tell(error);
    byId('key-form').hidden = false;
    byId('key', HTMLInputElement).focus();
    if (byId('key', HTMLInputElement).value !== '') tell(error);
    return;
  }
  byId('key-form').hidden = true;
  problem.hidden = true;
  document.title = `${model.id} · spkv`;
  const facts = [model.id, `${model.layers} layers × ${model.kv_heads} KV heads`, `window ${count(model.window)}`, `${count(model.max_model_len)} positions`];
  if (model.dense) facts.push('dense: it keeps everything');
  byId('model').replaceChildren(...facts.map((fact) => create('span', '', fact)));
  threshold.value = String(model.threshold);
  threshold.disabled = model.dense;
  showThreshold();
  grid = new HeatGrid(byId('grid'), { layers: model.layers, heads: model.kv_heads }, (list) => {
    text.through(list);
    focus.textContent = list === undefined ? 'Choose a layer and head to see the text through it.' : `The text shows what ${grid.name(list)} keeps. Choose it again for all.`;
  });
  const chat = /** @type {HTMLInputElement} */ (form.elements.namedItem('mode') instanceof RadioNodeList && form.querySelector('[value=chat]'));
  chat.disabled = !model.chat;
  chat.parentElement?.setAttribute('title', model.chat ? '' : 'The model has no chat template');
  reset();
  gauges.start();
}

/** An answer that knows nothing yet. */
function reset() {
  answer = new Answer({ layers: model.layers, heads: model.kv_heads, window: model.window });
  text.begin(answer);
  for (const name of ['Prompt', 'Written', 'First token', 'Speed', 'Memory']) figures.set(name, '–');
  show();
}

async function write() {
  if (running || !model || !form.reportValidity()) return;
  const chat = mode() === 'chat';
  const question = prompt.value;
  if (chat) {
    messages.push({ role: 'user', content: question });
    prompt.value = '';
  }
  const fields = {
    model: model.id,
    ...(chat ? { messages, max_completion_tokens: Number(maxTokens.value) } : { prompt: question, max_tokens: Number(maxTokens.value) }),
    temperature: Number(temperature.value),
    threshold: Number(threshold.value),
    stream: true,
    stream_options: { include_usage: true },
    report: 'tokens',
  };
  running = new AbortController();
  busy(true);
  reset();
  showTurns();
  let outcome;
  try {
    outcome = await receive(stream(chat ? '/v1/chat/completions' : '/v1/completions', fields, running.signal));
  } catch (error) {
    const stopped = running.signal.aborted;
    outcome = stopped ? 'Stopped' : 'Not finished';
    if (!stopped) tell(error);
    // A question without an answer is asked again, not repeated.
    if (chat && answer.text === '') {
      messages.pop();
      prompt.value = question;
    }
  }
  if (chat && answer.text !== '') messages.push({ role: 'assistant', content: answer.text });
  running = undefined;
  busy(false);
  show();
  showTurns();
  status.textContent = outcome;
}

/** Takes in what comes, and says in the end how it was. @param {AsyncGenerator<any, void, void>} events */
async function receive(events) {
  const begun = performance.now();
  let first = 0;
  let outcome = '';
  const lately = new Rate();
  for await (const { choices: [choice], usage } of events) {
    if (choice?.kept) answer.read(choice.kept);
    const piece = choice?.text ?? choice?.delta?.content ?? '';
    if (piece !== '') {
      first ||= performance.now();
      answer.text += piece;
    }
    lately.add((choice?.kept ?? []).filter((/** @type {import('./answer.js').KeptFields} */ token) => token.written).length);
    if (first) figures.set('First token', `after ${time(first - begun)}`);
    if (lately.value > 0) figures.set('Speed', `${count(lately.value)} tokens/s`);
    if (usage) outcome = finish(usage);
    soon();
  }
  return outcome;
}

/** @param {any} usage */
function finish({ prompt_tokens, completion_tokens, prompt_tokens_details: { cached_tokens }, timing, cache: [cache] }) {
  figures.set('Prompt', `${count(prompt_tokens)} tokens${cached_tokens > 0 ? `, ${count(cached_tokens)} of them from the cache` : ''}`);
  figures.set('Written', `${count(completion_tokens)} tokens`);
  // By the server's clock: what it sent may have waited here.
  figures.set('First token', `after ${time(timing.first_token_after)}`);
  if (completion_tokens > 1) figures.set('Speed', `${count((1000 * (completion_tokens - 1)) / (timing.ended_after - timing.first_token_after))} tokens/s`);
  figures.set('Memory', `${size(cache.bytes)}; dense ${size(cache.dense_bytes)}`);
  return `Done: ${count(completion_tokens)} tokens, ${answer.left > 0 ? `${percent(cache.density)} kept` : 'all in the window'}`;
}

/** Shows what has come, once a frame. */
function soon() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    show();
  });
}

function show() {
  text.update();
  growing.textContent = answer.text;
  turns.scrollTop = turns.scrollHeight;
  grid.update(answer);
  const { held, dense } = answer.pairs;
  const known = answer.tokens.length > 0;
  const [share, what] = [create('strong', '', known ? percent(answer.density) : '–'), create('span')];
  what.textContent = answer.left > 0 || !known ? 'of the pairs that left the window' : 'of the pairs will stay; all are in the window still';
  byId('kept').replaceChildren(share, what);
  figures.set('Pairs held', known ? `${count(held)} of ${count(dense)}` : '–');
}

/** @param {boolean} now */
function busy(now) {
  for (const control of [byId('go', HTMLButtonElement), byId('modes', HTMLFieldSetElement), anew]) control.disabled = now;
  stop.disabled = !now;
  byId('text').ariaBusy = String(now);
  if (!now) return;
  problem.hidden = true;
  status.textContent = 'Writing …';
  if (matchMedia('(max-width: 56rem)').matches) byId('text').scrollIntoView({ block: 'nearest' });
}

function showTurns() {
  const shown = mode() === 'chat' ? messages : [];
  turns.hidden = shown.length === 0;
  anew.hidden = shown.length === 0;
  turns.replaceChildren(...shown.map(({ role, content }) => create('li', role, create('b', '', role === 'user' ? 'You' : 'Model'), create('p', '', content))));
  if (running && shown.length > 0) turns.append(create('li', 'assistant', create('b', '', 'Model'), growing));
  turns.scrollTop = turns.scrollHeight;
}

/** @param {unknown} error */
function tell(error) {
  problem.textContent = error instanceof Error ? error.message : String(error);
  problem.hidden = false;
}

function mode() {
  return /** @type {RadioNodeList} */ (form.elements.namedItem('mode')).value;
}

function showThreshold() {
  byId('threshold-value').textContent = Number(threshold.value).toFixed(2);
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  void write();
});
byId('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  setKey(byId('key', HTMLInputElement).value);
  void open();
});
for (const radio of form.querySelectorAll('[name=mode]')) {
  radio.addEventListener('change', () => {
    prompt.placeholder = mode() === 'chat' ? 'A message to the model' : 'A text for the model to go on with';
    byId('example').hidden = mode() === 'chat';
    showTurns();
  });
}
threshold.addEventListener('input', showThreshold);
byId('example').addEventListener('click', async () => {
  prompt.value = await (await fetch('/page/example.txt')).text();
  prompt.focus();
});
stop.addEventListener('click', () => running?.abort());
anew.addEventListener('click', () => {
  messages = [];
  showTurns();
  prompt.focus();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') running?.abort();
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) void write();
});
for (let i = 0; i <= 20; i++) byId('ramp').append(create('i', `heat-${i}`));
void open();
