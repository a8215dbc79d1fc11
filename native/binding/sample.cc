#include "ops/sample.h"

#include "binding/call.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {

// sample(out, logits, settings, seeds, positions, history | null, mask | null)
Napi::Value sample(const Napi::CallbackInfo& info) {
  Call call(info, "sample");
  SampleParams params;
  params.out = call.output("out", kI32, "B");
  params.logits = call.tensor("logits", kF32, "B V");
  call.bind('S', kSamplingColumns, "one column per sampling setting");
  params.settings = call.tensor("settings", kF32, "B S");
  call.bind('2', 2, "low and high half");
  params.seeds = call.tensor("seeds", kI32, "B 2");
  params.positions = call.tensor("positions", kI32, "B");
  params.history = call.optional_output("history", kI32, "B V");
  call.bind('W', (call.dimension('V') + 31) / 32, "a bit for each logit");
  params.mask = call.optional_tensor("mask", kI32, "B W");
  call.check(call.dimension('V') > 0, Code::kShape, "Expected at least one logit per row");
  call.enqueue(params, &Operations::sample);
  return info.Env().Undefined();
}

// recordPrompt(history, ids)
Napi::Value record_prompt(const Napi::CallbackInfo& info) {
  Call call(info, "recordPrompt");
  RecordPromptParams params;
  params.history = call.output("history", kI32, "V");
  params.ids = call.tensor("ids", kI32, "T");
  call.enqueue(params, &Operations::record_prompt);
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
