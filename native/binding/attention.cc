#include "ops/attention.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// attention(out, q, keys, values, utilities | null, cache, layer, slots, offsets, scale)
Napi::Value attention(const Napi::CallbackInfo& info) {
  Call call(info, "attention");
  AttentionParams params;
  params.out = call.activation_output("out", "T H D");
  params.q = call.tensor("q", kF32, "T H D");
  params.keys = call.tensor("keys", kF32, "T G D");
  params.values = call.tensor("values", kF32, "T G D");
  params.utilities = call.optional_tensor("utilities", kF32, "T G");
  params.cache = call.cache("cache").cache.get();
  const CacheGeometry& geometry = call.bind_geometry(*params.cache);
  params.layer = call.integer("layer", 0, geometry.layers - 1);
  call.batch(&params);
  params.scale = static_cast<float>(call.number("scale"));
  call.check(call.dimension('H') > 0 && call.dimension('H') % call.dimension('G') == 0, Code::kShape,
             "Expected the query heads H of q to be a multiple of the KV heads G of keys");
  call.enqueue(params, &Operations::attention);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
