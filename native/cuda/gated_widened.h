// Tensors [T, heads, D] in bf16 that stand in scratch memory as f32 for the time of an operation.
#pragma once

#include <initializer_list>
#include <vector>

#include "cuda/context.h"

namespace spkv {
namespace cuda {

class Widened {
 public:
  // With room for `extra` numbers more.
  Widened(Context& context, int64_t extra) : context_(context), extra_(extra) {}

  // Lets the views that are in bf16 point to f32; the inputs are converted.
  Status open(std::initializer_list<View*> inputs, std::initializer_list<View*> outputs);
  float* extra() const { return memory_; }
  // Rounds the outputs to where they belong.
  Status close();

 private:
  struct Output {
    View bf16, f32;
  };
  Status convert(const View& to, const View& from);

  Context& context_;
  int64_t extra_;
  float* memory_ = nullptr;
  std::vector<Output> outputs_;
};

}  // namespace cuda
}  // namespace spkv
