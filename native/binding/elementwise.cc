#include "ops/elementwise.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// siluMul(out, gate, up)
Napi::Value silu_mul(const Napi::CallbackInfo& info) {
  Call call(info, "siluMul");
  SiluMulParams params;
  params.out = call.activation_output("out", "T F");
  params.gate = call.activation("gate", "T F");
  params.up = call.tensor("up", type_of(params.gate), "T F");
  call.in_place("out", "gate");
  call.in_place("out", "up");
  call.enqueue(params, &Operations::silu_mul);
  return info.Env().Undefined();
}

// siluMulBackward(dGate, dUp, dy, gate, up, activated | null)
Napi::Value silu_mul_backward(const Napi::CallbackInfo& info) {
  Call call(info, "siluMulBackward");
  SiluMulBackwardParams params;
  params.d_gate = call.activation_output("dGate", "T F");
  const unsigned type = type_of(params.d_gate);
  params.d_up = call.output("dUp", type, "T F");
  params.dy = call.tensor("dy", type, "T F");
  params.gate = call.tensor("gate", type, "T F");
  params.up = call.tensor("up", type, "T F");
  params.activated = call.optional_output("activated", type, "T F");
  call.in_place("dGate", "dy");
  call.in_place("dGate", "gate");
  call.in_place("dGate", "up");
  call.in_place("dUp", "dy");
  call.in_place("dUp", "gate");
  call.in_place("dUp", "up");
  call.in_place("activated", "dy");
  call.in_place("activated", "gate");
  call.in_place("activated", "up");
  call.enqueue(params, &Operations::silu_mul_backward);
  return info.Env().Undefined();
}

// add(out, a, b)
Napi::Value add(const Napi::CallbackInfo& info) {
  Call call(info, "add");
  AddParams params;
  params.out = call.output("out", kF32, "T C");
  params.a = call.tensor("a", kF32, "T C");
  params.b = call.tensor("b", kF32, "T C");
  call.in_place("out", "a");
  call.in_place("out", "b");
  call.enqueue(params, &Operations::add);
  return info.Env().Undefined();
}

static const char* const kShapes[] = {"A", "A B", "A B C", "A B C D"};

// copy(out, x)
Napi::Value copy(const Napi::CallbackInfo& info) {
  Call call(info, "copy");
  CopyParams params;
  const char* shape = kShapes[call.rank(0) - 1];
  params.out = call.output("out", kF32 | kBF16 | kI32 | kU8, shape);
  unsigned same = type_of(params.out);
  params.x = call.tensor("x", same & (kF32 | kBF16) ? kF32 | kBF16 : same, shape);
  call.in_place("out", "x");
  call.enqueue(params, &Operations::copy);
  return info.Env().Undefined();
}

// fill(out, value)
Napi::Value fill(const Napi::CallbackInfo& info) {
  Call call(info, "fill");
  FillParams params;
  params.out = call.output("out", kF32 | kBF16, kShapes[call.rank(0) - 1]);
  params.value = static_cast<float>(call.number("value"));
  call.enqueue(params, &Operations::fill);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
