// A recorded run of commands as a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <vector>

#include "core/stream.h"
#include "cuda/stream_memory.h"

namespace spkv {
namespace cuda {

// What Graph::compiled holds. Without `executable` the graph has run, but is not recorded.
struct CompiledGraph {
  explicit CompiledGraph(std::shared_ptr<StreamMemory> memory) : memory(std::move(memory)) {}
  CompiledGraph(const CompiledGraph&) = delete;
  ~CompiledGraph() { drop(); }

  bool valid() const {
    for (const auto& dependency : dependencies)
      if (!dependency()) return false;
    return true;
  }
  void drop() {
    if (executable) memory->retire(executable);
    executable = nullptr;
    dependencies.clear();
    effects.clear();
  }

  std::shared_ptr<StreamMemory> memory;
  cudaGraphExec_t executable = nullptr;
  bool unsupported = false;  // some operation cannot be recorded: it always runs one by one
  bool doubted = false;      // it was not valid at the last launch
  std::vector<std::function<bool()>> dependencies;
  std::vector<std::function<void()>> effects;
};

// Runs the commands with `stream` recording, and compiles what they enqueued.
Status record(const Graph& graph, Execution& execution, cudaStream_t stream, CompiledGraph* compiled);

}  // namespace cuda
}  // namespace spkv
