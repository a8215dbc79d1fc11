// 'spkv/train': teaching a model what to keep.
export type { DataSource, DataSources } from './data/sources.js';
export type { EndRecord, HardResult, LogRecord, RecallRecord, SaveRecord, StartRecord, StepRecord, ValidationRecord } from './log.js';
export { type Ranks, ranksOf } from './parallel/ranks.js';
export type { RecallResult } from './recall.js';
export type { TrainOptions } from './run-file.js';
export { type AnySetting, type GivenSettings, SETTINGS } from './settings.js';
export { train, type TrainEvent, type TrainResult } from './train.js';
