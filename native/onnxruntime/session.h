// A graph with ai.spkv::SelfPrunedAttention, run by onnxruntime on the stream's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/stream.h"
#include "onnxruntime/library.h"
#include "onnxruntime/operator.h"

namespace spkv {
namespace onnxruntime {

// One run of the graph: from token ids to logits, and the new pairs of all layers.
struct RunParams {
  View logits;     // [N, V] f32, or absent
  View keys;       // [L, T, G, D] f32
  View values;     // [L, T, G, D] f32
  View utilities;  // [L, T, G] f32, or absent in a dense model
  View ids;        // [T] i32
  View positions;  // [T] i32
  View slots;      // [B] i32
  View offsets;    // [B + 1] i32
  View rows;       // [N] i32: the tokens whose logits are wanted; absent: the first N
  Cache* cache = nullptr;
  const Operations* operations = nullptr;
  int64_t vocabulary = 0;  // V, where there are no logits
};

class Session {
 public:
  // On the stream's thread. `threads` are those of onnxruntime's own pool; 0: as many as the stream has. Null
  // with a status where onnxruntime refuses the graph.
  static std::shared_ptr<Session> open(const Library* library, const std::string& path, int threads,
                                       Execution& execution, Status* status);
  ~Session();
  Session(const Session&) = delete;

  Status run(const RunParams& params, Execution& execution);

 private:
  explicit Session(const Library* library) : library_(library), operator_(library) {}
  Status create(const std::string& path, int threads);
  Status create_with(OrtSessionOptions* options, const std::string& path, int threads);
  Status read_inputs();
  const Api& api() const { return library_->api(); }

  const Library* library_;
  AttentionOperator operator_;
  OrtCustomOpDomain* domain_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
  OrtSession* session_ = nullptr;
  std::vector<int> inputs_;          // which of ours the graph has, in its order
  std::vector<int64_t> widened_[3];  // ids, positions and rows as the graph wants them
};

}  // namespace onnxruntime
}  // namespace spkv
