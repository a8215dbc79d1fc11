// spkv: self-pruned KV attention for Node.js. Text and model level; the operations are at 'spkv/ops'.
/// <reference lib="esnext.disposable" preserve="true" />
export { CACHE_DTYPES, type CacheDType, KvCache, PAGE_TOKENS, type PoolStats, Sequence, type SequenceStats } from './cache.js';
export { type Checkpoint, openCheckpoint } from './checkpoint/checkpoint.js';
export type { ModelConfig, SpkvConfig } from './checkpoint/config.js';
export type { ConstraintSource } from './constrain/compile.js';
export { Constraint, Progress } from './constrain/constraint.js';
export type { JsonSchema } from './constrain/schema-keywords.js';
export { Device, type DeviceOptions, openDevice } from './device.js';
export { Engine } from './engine/engine.js';
export type { TextEvent, TextToken } from './engine/events.js';
export type { KeptToken } from './engine/kept.js';
export type { TokenLogprobs } from './engine/logprobs.js';
export type { EngineOptions, RequestOptions } from './engine/options.js';
export type { Request, RequestResult, RequestTiming } from './engine/request.js';
export type { EngineStats, RequestRecord, StepRecord } from './engine/stats.js';
export { type ErrorCode, SpkvError } from './errors.js';
export { evaluate, type EvaluateOptions, type Evaluation, WINDOW_ONLY } from './evaluate.js';
export type { GenerateOptions, Generation, GenerationResult } from './generate.js';
export { Decoder, type DecoderRow } from './model/decoder.js';
export { Model, type ModelOptions, type PrefillOptions, type StepInput } from './model/model.js';
export type { NetworkConfig } from './model/network.js';
export { type CacheReport, reportCache } from './report.js';
export type { SamplingOptions } from './sampling-options.js';
export { Session } from './session.js';
export type { ChatMessage, ChatTemplate, ChatTemplateOptions } from './text/chat-template.js';
export { StreamDecoder } from './text/stream-decoder.js';
export type { EncodeOptions, Tokenizer } from './text/tokenizer.js';
export { loadModel, TextModel } from './text-model.js';
