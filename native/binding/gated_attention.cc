#include "ops/gated_attention.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

static void check_sizes(Call& call) {
  call.check(call.dimension('O') >= 2, Code::kShape, "Expected at least two offsets");
  int64_t heads = call.dimension('H'), kv_heads = call.dimension('G');
  call.check(kv_heads > 0 && heads > 0 && heads % kv_heads == 0, Code::kShape,
             "Expected the query heads H of q to be a multiple of the KV heads G of keys");
  int64_t head_dim = call.dimension('D');
  call.check(head_dim >= 2 && head_dim % 2 == 0 && head_dim <= 256, Code::kShape,
             "Expected an even head size from 2 to 256");
}

// gatedAttention(out, logSumExp | null, q, keys, values, gates | null, offsets, window, scale)
Napi::Value gated_attention(const Napi::CallbackInfo& info) {
  Call call(info, "gatedAttention");
  GatedAttentionParams params;
  params.out = call.activation_output("out", "T H D");
  const unsigned type = type_of(params.out);
  params.log_sum_exp = call.optional_output("logSumExp", kF32, "T H");
  params.q = call.tensor("q", type, "T H D");
  params.keys = call.tensor("keys", type, "T G D");
  params.values = call.tensor("values", type, "T G D");
  params.gates = call.optional_tensor("gates", kF32, "T G");
  params.offsets = call.tensor("offsets", kI32, "O");
  params.window = call.integer("window", 1, INT32_MAX);
  params.scale = static_cast<float>(call.number("scale"));
  check_sizes(call);
  call.enqueue(params, &Operations::gated_attention);
  return info.Env().Undefined();
}

// gatedAttentionBackward(dq, dk, dv, dGates | null, dOut, out, logSumExp, q, keys, values, gates | null,
// offsets, window, scale)
Napi::Value gated_attention_backward(const Napi::CallbackInfo& info) {
  Call call(info, "gatedAttentionBackward");
  GatedAttentionBackwardParams params;
  params.dq = call.activation_output("dq", "T H D");
  const unsigned type = type_of(params.dq);
  params.dk = call.output("dk", type, "T G D");
  params.dv = call.output("dv", type, "T G D");
  params.d_gates = call.optional_output("dGates", kF32, "T G");
  params.d_out = call.tensor("dOut", type, "T H D");
  params.out = call.tensor("out", type, "T H D");
  params.log_sum_exp = call.tensor("logSumExp", kF32, "T H");
  params.q = call.tensor("q", type, "T H D");
  params.keys = call.tensor("keys", type, "T G D");
  params.values = call.tensor("values", type, "T G D");
  params.gates = call.optional_tensor("gates", kF32, "T G");
  params.offsets = call.tensor("offsets", kI32, "O");
  params.window = call.integer("window", 1, INT32_MAX);
  params.scale = static_cast<float>(call.number("scale"));
  check_sizes(call);
  call.check(params.gates || !params.d_gates, Code::kInvalidArgument,
             "Expected gates, since dGates is to be filled");
  call.enqueue(params, &Operations::gated_attention_backward);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
