#include "ops/rope.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// rotaryAngles(out, positions, inverseFrequencies)
Napi::Value rotary_angles(const Napi::CallbackInfo& info) {
  Call call(info, "rotaryAngles");
  RotaryAnglesParams params;
  params.out = call.output("out", kF32, "T D");
  params.positions = call.tensor("positions", kI32, "T");
  params.inverse_frequencies = call.tensor("inverseFrequencies", kF32, "F");
  call.check(2 * call.dimension('F') == call.dimension('D'), Code::kShape,
             "Expected inverseFrequencies to have half as many elements as out has columns");
  call.enqueue(params, &Operations::rotary_angles);
  return info.Env().Undefined();
}

// rope(out, x, angles, inverse)
Napi::Value rope(const Napi::CallbackInfo& info) {
  Call call(info, "rope");
  RopeParams params;
  params.out = call.activation_output("out", "T H D");
  params.x = call.tensor("x", type_of(params.out), "T H D");
  params.angles = call.tensor("angles", kF32, "T D");
  params.inverse = call.boolean("inverse");
  call.check(call.dimension('D') % 2 == 0, Code::kShape, "Expected an even head size");
  call.in_place("out", "x");
  call.enqueue(params, &Operations::rope);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
