// spkv/onnxruntime: models that were exported as ONNX, run by onnxruntime. It needs the package onnxruntime-node.
export { loadModel, type OnnxModelOptions } from './load.js';
export { ROUTES, type Route } from './route.js';
