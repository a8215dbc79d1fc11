#include "cuda/graph.h"

#include "cuda/context.h"

namespace spkv {
namespace cuda {

Status record(const Graph& graph, Execution& execution, cudaStream_t stream, CompiledGraph* compiled) {
  SPKV_RETURN_IF_ERROR(
      check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "beginning to record a graph"));
  Status status;
  for (const Command& command : graph.commands) {
    status = command(execution);
    if (!status.ok()) break;
  }
  cudaGraph_t recorded = nullptr;
  Status ended = check(cudaStreamEndCapture(stream, &recorded), "recording a graph");
  if (status.ok()) status = ended;
  if (status.ok())
    status = check(cudaGraphInstantiate(&compiled->executable, recorded, 0), "compiling a graph");
  if (recorded) cudaGraphDestroy(recorded);
  return status;
}

}  // namespace cuda
}  // namespace spkv
