import { type Browser, type BrowserContextOptions, chromium as launcher, type Page, type Request } from 'playwright-core';
import { chromium } from '../../scripts/chromium.mjs';

const ARGUMENTS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

export function openBrowser(): Promise<Browser> {
  return launcher.launch({ executablePath: chromium() as string, args: ARGUMENTS });
}

/** A page that is watched: what goes wrong in it, and what it asks for. */
export interface Watched {
  page: Page;
  /** Errors of scripts, of the console and of the content security policy. */
  problems: string[];
  requests: Request[];
}

/** Opens the page of a server and waits until it knows the model, or asks for a key. */
export async function openPage(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Watched> {
  const page = await (await browser.newContext(options)).newPage();
  page.setDefaultTimeout(0); // that of the test is enough
  const [problems, requests]: [string[], Request[]] = [[], []];
  page.on('pageerror', (error) => problems.push(error.message));
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) problems.push(message.text());
  });
  page.on('request', (request) => requests.push(request));
  await page.goto(url);
  await page.locator('.facts span, #key-form:not([hidden])').first().waitFor();
  return { page, problems, requests };
}

/** What the last request for an answer said. */
export function asked({ requests }: Watched): any {
  return requests.findLast((request) => request.method() === 'POST')!.postDataJSON();
}

/** The text as it stands in the heat map. */
export function shownText(page: Page): Promise<string> {
  return page.locator('#text div').evaluateAll((lines) => lines.map((line) => line.textContent).join('\n'));
}

/** The percentages of the grid. */
export function shownShares(page: Page): Promise<string[]> {
  return page.locator('.heat-grid td button').allTextContents();
}
