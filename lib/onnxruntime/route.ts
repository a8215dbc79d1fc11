import { SpkvError } from '../errors.js';
import type { OnnxManifest } from '../onnx/manifest.js';
import type { Runtime } from './runtime.js';

/**
 * Who runs an exported model: 'graph', this process, through the library that onnxruntime-node brings, with attention
 * as an operator of the graph; 'parts', onnxruntime-node in a process of its own, with attention between the parts.
 */
export const ROUTES = ['graph', 'parts'] as const;
export type Route = (typeof ROUTES)[number];

/** Chooses between the two. Errors: FILE, NATIVE where the one that was asked for cannot be had. */
export function chooseRoute(wanted: 'auto' | Route, dir: string, manifest: OnnxManifest, runtime: Runtime, onWarning?: (message: string) => void): Route {
  const obstacle = graphObstacle(dir, manifest, runtime);
  if (wanted === 'graph' && obstacle) throw obstacle;
  if (wanted === 'graph' || (wanted === 'auto' && !obstacle)) return 'graph';
  if (!manifest.parts) {
    throw wanted === 'auto' ? obstacle : new SpkvError('FILE', `${dir} has no graph in parts: export it with --form parts or --form both`);
  }
  if (obstacle) onWarning?.(`onnxruntime runs in a process of its own: ${obstacle.message}`);
  return 'parts';
}

function graphObstacle(dir: string, { graph }: OnnxManifest, { library, dir: package_, version }: Runtime): SpkvError | undefined {
  if (graph === undefined) return new SpkvError('FILE', `${dir} has no graph with attention as an operator: export it with --form graph or --form both`);
  if (process.platform === 'win32') return new SpkvError('NATIVE', "onnxruntime's library cannot be opened on Windows");
  if (library !== undefined) return undefined;
  return new SpkvError('NATIVE', `onnxruntime-node ${version} in ${package_} has no library for ${process.platform}-${process.arch}`);
}
