// spkv/onnx: models as ONNX graphs. Writing them needs the package protobufjs.
export { adaptOnnx, type AdaptOptions } from './adapt/adapt.js';
export { exportOnnx, type ExportOptions } from './export.js';
export type { OnnxForm } from './forms.js';
export { type OnnxManifest, readManifest } from './manifest.js';
export { ONNX_DTYPES, type OnnxDtype } from './weights.js';
