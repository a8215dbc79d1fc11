// spkv/onnx: models as ONNX graphs. Writing them needs the package protobufjs.
export { exportOnnx, type ExportOptions, type OnnxForm } from './export.js';
export { type OnnxManifest, readManifest } from './manifest.js';
export { ONNX_DTYPES, type OnnxDtype } from './weights.js';
