#include "ops/matmul.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// matmul(out, x, weight, bias | null, base | null)
Napi::Value matmul(const Napi::CallbackInfo& info) {
  Call call(info, "matmul");
  MatmulParams params;
  params.out = call.activation_output("out", "T N");
  params.x = call.activation("x", "T K");
  params.weight = call.tensor("weight", kF32 | kBF16, "N K", true);
  params.bias = call.optional_tensor("bias", kF32 | kBF16, "N");
  params.base = call.optional_tensor("base", type_of(params.out), "T N");
  call.in_place("out", "base");
  call.enqueue(params, &Operations::matmul);
  return info.Env().Undefined();
}

// matmulInputGradient(dx, dy, weight, accumulate)
Napi::Value matmul_input_gradient(const Napi::CallbackInfo& info) {
  Call call(info, "matmulInputGradient");
  MatmulInputGradientParams params;
  params.dx = call.activation_output("dx", "T K");
  params.dy = call.activation("dy", "T N");
  params.weight = call.tensor("weight", kF32 | kBF16, "N K");
  params.accumulate = call.boolean("accumulate");
  call.enqueue(params, &Operations::matmul_input_gradient);
  return info.Env().Undefined();
}

// matmulWeightGradient(dWeight, dy, x)
Napi::Value matmul_weight_gradient(const Napi::CallbackInfo& info) {
  Call call(info, "matmulWeightGradient");
  MatmulWeightGradientParams params;
  params.d_weight = call.output("dWeight", kF32, "N K");
  params.dy = call.activation("dy", "T N");
  params.x = call.activation("x", "T K");
  call.enqueue(params, &Operations::matmul_weight_gradient);
  return info.Env().Undefined();
}

// columnSums(out, x)
Napi::Value column_sums(const Napi::CallbackInfo& info) {
  Call call(info, "columnSums");
  ColumnSumsParams params;
  params.out = call.output("out", kF32, "N");
  params.x = call.activation("x", "T N");
  call.enqueue(params, &Operations::column_sums);
  return info.Env().Undefined();
}

// packWeight(out, sources): fills a tensor made by createPacked.
Napi::Value pack_weight(const Napi::CallbackInfo& info) {
  Call call(info, "packWeight");
  PackWeightParams params;
  params.out = call.output("out", kF32 | kBF16, "N K", true);
  call.check(params.out.layout == Layout::kPacked, Code::kDtype, "Expected a packed weight for out");
  unsigned dtype = 1u << static_cast<int>(params.out.dtype);
  params.count = static_cast<int>(call.integer("count", 1, PackWeightParams::kMaxSources));
  int64_t rows = 0;
  const char* names[] = {"sources[0]", "sources[1]", "sources[2]", "sources[3]"};
  const char* shapes[] = {"0 K", "1 K", "2 K", "3 K"};
  for (int i = 0; i < params.count; i++) {
    params.sources[i] = call.tensor(names[i], dtype, shapes[i]);
    rows += params.sources[i].shape[0];
  }
  call.bind('N', rows, "the rows of all sources");
  call.enqueue(params, &Operations::pack_weight);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
