#include "ops/insert.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// insert(cache, keys, values, utilities | null, slots, offsets, logits | null)
Napi::Value insert(const Napi::CallbackInfo& info) {
  Call call(info, "insert");
  InsertParams params;
  params.cache = call.cache("cache").cache.get();
  call.bind_geometry(*params.cache);
  params.keys = call.tensor("keys", kF32, "L T G D");
  params.values = call.tensor("values", kF32, "L T G D");
  params.utilities = call.optional_tensor("utilities", kF32, "L T G");
  call.batch(&params);
  params.logits = call.optional_tensor("logits", kF32, "N V");
  call.enqueue(params, &Operations::insert);
  return info.Env().Undefined();
}

// positions(out, cache, slots, offsets)
Napi::Value positions(const Napi::CallbackInfo& info) {
  Call call(info, "positions");
  PositionsParams params;
  params.out = call.output("out", kI32, "T");
  params.cache = call.cache("cache").cache.get();
  call.batch(&params);
  call.enqueue(params, &Operations::positions);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
