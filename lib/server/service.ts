import type { Engine } from '../engine/engine.js';
import type { TextModel } from '../text-model.js';
import { ApiError } from './api-error.js';
import type { Encoder } from './encoder.js';
import type { Limits } from './limits.js';
import type { ResolvedServerOptions } from './options.js';
import type { TokenTexts } from './token-text.js';

/** What the routes work with. */
export interface Service {
  model: TextModel;
  engine: Engine;
  encoder: Encoder;
  limits: Limits;
  tokenTexts: TokenTexts;
  options: ResolvedServerOptions;
  /** Changes when the same request with the same seed may give another text. */
  fingerprint: string;
  /** When the server began, in seconds. */
  created: number;
}

/** Errors: 404 for a name that is not the model's. */
export function checkModel({ options }: Service, name: string): void {
  if (name === options.name) return;
  throw new ApiError(404, `There is no model "${name}" here; /v1/models lists what there is`, { param: 'model', code: 'model_not_found' });
}
