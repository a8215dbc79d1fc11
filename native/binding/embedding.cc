#include "ops/embedding.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// embedding(out, ids, table)
Napi::Value embedding(const Napi::CallbackInfo& info) {
  Call call(info, "embedding");
  EmbeddingParams params;
  params.out = call.activation_output("out", "T C");
  params.ids = call.tensor("ids", kI32, "T");
  params.table = call.tensor("table", kF32 | kBF16, "V C");
  call.enqueue(params, &Operations::embedding);
  return info.Env().Undefined();
}

// embeddingBackward(dTable, ids, dy)
Napi::Value embedding_backward(const Napi::CallbackInfo& info) {
  Call call(info, "embeddingBackward");
  EmbeddingBackwardParams params;
  params.d_table = call.output("dTable", kF32, "V C");
  params.ids = call.tensor("ids", kI32, "T");
  params.dy = call.tensor("dy", kF32, "T C");
  call.enqueue(params, &Operations::embedding_backward);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
