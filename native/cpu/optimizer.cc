#include "ops/optimizer.h"

#include "cpu/rows.h"
#include "cpu/scratch.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN
namespace {

constexpr int64_t kBlock = 8192;  // elements that a thread takes at a time

// The factors of one step, the same for all elements.
struct Update {
  float factor, keep, rate, root, epsilon, beta1, beta2;
};

void update(const AdamWParams& params, const Update& by, int64_t begin, int64_t end) {
  float* __restrict parameter = params.parameter.as<float>();
  float* __restrict momentum = params.momentum.as<float>();
  float* __restrict variance = params.variance.as<float>();
  const float* __restrict gradient = params.gradient.as<float>();
  for (int64_t i = begin; i < end; i++) {
    const float g = by.factor * gradient[i];
    const float m = by.beta1 * momentum[i] + (1 - by.beta1) * g;
    const float v = by.beta2 * variance[i] + (1 - by.beta2) * g * g;
    momentum[i] = m;
    variance[i] = v;
    parameter[i] = by.keep * parameter[i] - by.rate * m / (__builtin_sqrtf(v) * by.root + by.epsilon);
  }
  if (!params.copy) return;
  for (int64_t i = begin; i < end; i++) params.copy.as<uint16_t>()[i] = to_bf16(parameter[i]);
}

}  // namespace

Status adam_w(const AdamWParams& params, Execution& execution) {
  const float factor = *params.factor.as<float>();
  if (!__builtin_isfinite(factor)) return Status();
  const double step = static_cast<double>(params.step);
  const double first = 1 - __builtin_pow(params.beta1, step), second = 1 - __builtin_pow(params.beta2, step);
  const Update by = {factor,
                     1 - params.learning_rate * params.weight_decay,
                     static_cast<float>(params.learning_rate / first),
                     static_cast<float>(1 / __builtin_sqrt(second)),
                     params.epsilon,
                     params.beta1,
                     params.beta2};
  const int64_t n = params.parameter.shape[0];
  for_rows(execution, divide_up(n, kBlock), kBlock * 4,
           [&](int64_t begin, int64_t end) { update(params, by, begin * kBlock, smaller(end * kBlock, n)); });
  return Status();
}

// Every block has a sum of its own; they are added up in double, in order.
Status squared_norm(const SquaredNormParams& params, Execution& execution) {
  const float* x = params.x.as<float>();
  const int64_t n = params.x.shape[0], blocks = divide_up(n, kBlock);
  float* sums = static_cast<float*>(scratch(larger<int64_t>(blocks, 1) * 4));
  if (!sums) return no_scratch(blocks * 4);
  for_rows(execution, blocks, kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++) {
      const float* from = x + block * kBlock;
      vf total = {};
      for_lanes(smaller(kBlock, n - block * kBlock), [&](int64_t i, auto lanes) {
        const vf value = read(from + i, lanes);
        total += value * value;
      });
      sums[block] = sum(total);
    }
  });
  double total = *params.out.as<float>();
  for (int64_t block = 0; block < blocks; block++) total += sums[block];
  *params.out.as<float>() = static_cast<float>(total);
  return Status();
}

Status clip_factor(const ClipFactorParams& params, Execution&) {
  const View& squared = params.squared_norms;
  double total = 0;
  for (int64_t n = 0; n < squared.shape[0]; n++) total += squared.as<float>()[n];
  const double norm = params.scale * __builtin_sqrt(total);
  const double factor = norm > params.limit ? params.scale * params.limit / norm : params.scale;
  *params.norm.as<float>() = static_cast<float>(norm);
  *params.factor.as<float>() = __builtin_isfinite(norm) ? static_cast<float>(factor) : __builtin_nanf("");
  return Status();
}

SPKV_ISA_END
