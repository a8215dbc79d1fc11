#include "ops/embedding.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// embedding(out, ids, table)
Napi::Value embedding(const Napi::CallbackInfo& info) {
  Call call(info, "embedding");
  EmbeddingParams params;
  params.out = call.output("out", kActivation, "T C");
  params.ids = call.tensor("ids", kI32, "T");
  params.table = call.tensor("table", kF32 | kBF16, "V C");
  call.distinct(params.out, "out", params.table, "table");
  call.enqueue(params, &Operations::embedding);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
