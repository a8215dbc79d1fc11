// Clients of a server that ask at random times: the load of the server's benchmark and of its test.

export interface LoadOptions {
  url: string;
  clients: number;
  /** Whether another question is to be asked. */
  more: () => boolean;
  /** Mean pause of a client between an answer and its next question: arrivals are a Poisson process. */
  pauseMilliseconds: number;
  /** What is asked, each with the text that it must give. */
  questions: readonly { fields: object; text: string }[];
  /** Numbers in [0, 1). */
  uniform: () => number;
}

/** Times in milliseconds. */
export interface LoadResult {
  answers: number;
  tokens: number;
  firstToken: number[];
  /** Between two events of an answer, each a token or more. */
  perToken: number[];
  /** What went wrong, a wrong text included. */
  errors: string[];
}

/** Asks as long as more is to be asked, and waits for the answers that are then being written. */
export async function load({ url, clients, more, pauseMilliseconds, questions, uniform }: LoadOptions): Promise<LoadResult> {
  const result: LoadResult = { answers: 0, tokens: 0, firstToken: [], perToken: [], errors: [] };
  const client = async () => {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, -Math.log(1 - uniform()) * pauseMilliseconds));
      if (!more()) return;
      const { fields, text } = questions[Math.floor(uniform() * questions.length)]!;
      try {
        const given = await ask(url, fields, result);
        if (given !== text) throw new Error(`expected ${JSON.stringify(text)} but received ${JSON.stringify(given)} for ${JSON.stringify(fields)}`);
      } catch (error) {
        result.errors.push((error as Error).message);
      }
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  return result;
}

async function ask(url: string, fields: object, result: LoadResult): Promise<string> {
  const start = performance.now();
  const body = JSON.stringify({ ...fields, stream: true, stream_options: { include_usage: true } });
  const response = await fetch(`${url}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
  if (!response.ok) throw new Error(`status ${response.status}: ${await response.text()}`);
  let before = 0;
  let text = '';
  for await (const event of events(response.body!)) {
    const now = performance.now();
    if (before > 0) result.perToken.push(now - before);
    else result.firstToken.push(now - start);
    before = now;
    text += event.choices[0]?.text ?? '';
    result.tokens += event.usage?.completion_tokens ?? 0;
  }
  result.answers++;
  return text;
}

interface Event {
  choices: { text: string }[];
  usage: { completion_tokens: number } | null;
  error?: { message: string };
}

async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<Event, void, void> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const bytes of body) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split('\n\n');
    rest = lines.pop()!;
    for (const line of lines) {
      if (line === 'data: [DONE]') return;
      const event = JSON.parse(line.slice('data: '.length)) as Event;
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
  throw new Error('the stream has ended before it was done');
}

/** The address in what a server says at its start. */
export function addressOf(stderr: NodeJS.ReadableStream): Promise<string> {
  let text = '';
  return new Promise((resolve, reject) => {
    stderr.on('data', (part) => {
      text += String(part);
      const address = /served at (\S+);/.exec(text)?.[1];
      if (address) resolve(address);
    });
    stderr.once('end', () => reject(new Error(`the server has ended: ${text}`)));
  });
}
