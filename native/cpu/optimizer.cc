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

void update(const AdamWParams& params, const Update& by, int64_t row, int64_t begin, int64_t end) {
  float* __restrict parameter = params.parameter.as<float>() + row * params.parameter.stride[0];
  float* __restrict momentum = params.momentum.as<float>() + row * params.momentum.stride[0];
  float* __restrict variance = params.variance.as<float>() + row * params.variance.stride[0];
  const float* __restrict gradient = params.gradient.as<float>() + row * params.gradient.stride[0];
  for (int64_t i = begin; i < end; i++) {
    const float g = by.factor * gradient[i];
    const float m = by.beta1 * momentum[i] + (1 - by.beta1) * g;
    const float v = by.beta2 * variance[i] + (1 - by.beta2) * g * g;
    momentum[i] = m;
    variance[i] = v;
    parameter[i] = by.keep * parameter[i] - by.rate * m / (__builtin_sqrtf(v) * by.root + by.epsilon);
  }
  if (!params.copy) return;
  uint16_t* copy = params.copy.as<uint16_t>() + row * params.copy.stride[0];
  for (int64_t i = begin; i < end; i++) copy[i] = to_bf16(parameter[i]);
}

// Calls body(row, block, begin, end) for every block of elements [begin, end) of every row of x [R, N].
template <typename Body>
void for_blocks(Execution& execution, const View& x, const Body& body) {
  const int64_t n = x.shape[1], blocks = divide_up(n, kBlock);
  for_rows(execution, x.shape[0] * blocks, smaller(n, kBlock) * 4, [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; item++) {
      const int64_t block = item % blocks, begin = block * kBlock;
      body(item / blocks, block, begin, smaller(begin + kBlock, n));
    }
  });
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
  for_blocks(execution, params.parameter,
             [&](int64_t row, int64_t, int64_t begin, int64_t end) { update(params, by, row, begin, end); });
  return Status();
}

// Every block has a sum of its own; those of a row are added up in double, in order.
Status squared_norm(const SquaredNormParams& params, Execution& execution) {
  const View& x = params.x;
  const int64_t rows = x.shape[0], blocks = divide_up(x.shape[1], kBlock);
  const int64_t bytes = larger<int64_t>(rows * blocks, 1) * 4;
  float* sums = static_cast<float*>(scratch(bytes));
  if (!sums) return no_scratch(bytes);
  for_blocks(execution, x, [&](int64_t row, int64_t block, int64_t begin, int64_t end) {
    const float* from = x.as<const float>() + row * x.stride[0] + begin;
    vf total = {};
    for_lanes(end - begin, [&](int64_t i, auto lanes) {
      const vf value = read(from + i, lanes);
      total += value * value;
    });
    sums[row * blocks + block] = sum(total);
  });
  for (int64_t row = 0; row < rows; row++) {
    float& out = params.out.as<float>()[row * params.out.stride[0]];
    double total = out;
    for (int64_t block = 0; block < blocks; block++) total += sums[row * blocks + block];
    out = static_cast<float>(total);
  }
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
