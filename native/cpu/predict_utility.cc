#include "ops/predict_utility.h"

#include "cpu/row_sums.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN
namespace {

constexpr int64_t kChunk = 512;  // of the hidden vector, activated once for all heads

// log(1 + e) for e in [0, 1], by log(1 + e) = 2 artanh(e / (2 + e)): the argument is at most 1/3 and small e
// keep all their digits.
inline __attribute__((always_inline)) vf log1p(vf e) {
  const vf s = e / (splat(2.0f) + e), q = s * s;
  vf p = splat(1.0f / 15);
  for (int n = 13; n > 0; n -= 2) p = p * q + splat(1.0f / static_cast<float>(n));
  return splat(2.0f) * s * p;
}

inline __attribute__((always_inline)) vf log_sigmoid(vf z) {
  const vf magnitude = as_float((vu)z & 0x7fffffffu);
  return minimum(z, vf{}) - log1p(exp(-magnitude));
}

// log((1 - alpha) u + alpha [u >= threshold]), in double: there are few of them, and all digits are kept near
// u = 0 and near u = 1.
inline float annealed(double z, bool kept, double alpha) {
  const double log_u = (z < 0 ? z : 0) - __builtin_log1p(__builtin_exp(z < 0 ? z : -z));
  if (!kept) return static_cast<float>(__builtin_log1p(-alpha) + log_u);
  if (alpha == 0) return static_cast<float>(log_u);
  if (z > 0) return static_cast<float>(__builtin_log1p((alpha - 1) / (1 + __builtin_exp(z))));
  return static_cast<float>(__builtin_log(alpha + (1 - alpha) / (1 + __builtin_exp(-z))));
}

inline vf annealed(vf z, float alpha, float threshold) {
  const vf u = sigmoid(z);
  vf result;
  for (int i = 0; i < kLanes; i++) result[i] = annealed(z[i], u[i] >= threshold, alpha);
  return result;
}

// out[g] += sum_p activated[p] * weight[g, p] for `kHeads` heads.
template <int kHeads, typename W>
void add_products(float* out, const float* activated, const W* weight, int64_t stride, int64_t n) {
  vf sums[kHeads] = {};
  for_lanes(n, [&](int64_t i, auto lanes) {
    const vf a = read(activated + i, lanes);
    for (int g = 0; g < kHeads; g++) sums[g] += a * read(weight + g * stride + i, lanes);
  });
  for (int g = 0; g < kHeads; g++) out[g] += sum(sums[g]);
}

inline __attribute__((always_inline)) vf utility_of(vf z, const PredictUtilityParams& params) {
  switch (params.form) {
    case UtilityForm::kUtility:
      return sigmoid(z);
    case UtilityForm::kLogUtility:
      return log_sigmoid(z);
    case UtilityForm::kAnnealed:
      break;
  }
  return annealed(z, params.alpha, params.threshold);
}

// Four heads at a time, so that four sums are in flight.
template <typename W>
void second_layer(float* out, const float* hidden, const View& weight) {
  const int64_t heads = weight.shape[0], width = weight.shape[1], stride = weight.stride[0];
  for (int64_t start = 0; start < width; start += kChunk) {
    const int64_t n = smaller(kChunk, width - start);
    float activated[kChunk];
    for_lanes(n, [&](int64_t i, auto lanes) {
      write(activated + i, silu(read(hidden + start + i, lanes)), lanes);
    });
    const W* rows = weight.as<const W>() + start;
    int64_t g = 0;
    for (; g + 4 <= heads; g += 4) add_products<4>(out + g, activated, rows + g * stride, stride, n);
    for (; g < heads; g++) add_products<1>(out + g, activated, rows + g * stride, stride, n);
  }
}

template <typename B>
void start_with(float* out, const B* bias, int64_t n) {
  for_lanes(n, [&](int64_t i, auto lanes) { write(out + i, read(bias + i, lanes), lanes); });
}

}  // namespace

Status predict_utility(const PredictUtilityParams& params, Execution& execution) {
  const View &weight = params.weight, &bias = params.bias;
  const int64_t heads = weight.shape[0];
  for_rows(execution, params.out.shape[0], (heads + 4) * weight.shape[1], [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      float* out = params.out.as<float>() + t * params.out.stride[0];
      const float* hidden = params.hidden.as<const float>() + t * params.hidden.stride[0];
      bias.dtype == DType::kBF16 ? start_with(out, bias.as<const uint16_t>(), heads)
                                 : start_with(out, bias.as<const float>(), heads);
      weight.dtype == DType::kBF16 ? second_layer<uint16_t>(out, hidden, weight)
                                   : second_layer<float>(out, hidden, weight);
      for_lanes(heads, [&](int64_t g, auto lanes) {
        const vf z = read(out + g, lanes);
        write(out + g, utility_of(z, params), lanes);
      });
    }
  });
  return Status();
}

namespace {

float element(const View& view, int64_t index) {
  return view.dtype == DType::kBF16 ? from_bf16(view.as<uint16_t>()[index]) : view.as<float>()[index];
}

// One token: z and dz of every head anew, then what it adds to the sums (d_weight, then d_bias), and
// d_hidden.
template <typename W>
void backward_token(const PredictUtilityBackwardParams& params, int64_t t, float* sums, float* activated) {
  const View& weight = params.weight;
  const int64_t heads = weight.shape[0], width = weight.shape[1];
  const float* hidden = params.hidden.as<float>() + t * params.hidden.stride[0];
  const float* gradient = params.d_log_utility.as<float>() + t * params.d_log_utility.stride[0];
  float* d_hidden = params.d_hidden.as<float>() + t * params.d_hidden.stride[0];
  float* d_activated = activated + width;
  for_lanes(width, [&](int64_t i, auto lanes) {
    write(activated + i, silu(read(hidden + i, lanes)), lanes);
    write(d_activated + i, vf{}, lanes);
  });
  for (int64_t g = 0; g < heads; g++) {
    const W* row = weight.as<W>() + g * weight.stride[0];
    float z = element(params.bias, g);
    add_products<1>(&z, activated, row, 0, width);
    const vf dz = splat(gradient[g]) * sigmoid(splat(-z));
    sums[heads * width + g] += dz[0];
    float* d_weight = sums + g * width;
    for_lanes(width, [&](int64_t i, auto lanes) {
      write(d_weight + i, read(d_weight + i, lanes) + dz * read(activated + i, lanes), lanes);
      write(d_activated + i, read(d_activated + i, lanes) + dz * read(row + i, lanes), lanes);
    });
  }
  for_lanes(width, [&](int64_t i, auto lanes) {
    const vf h = read(hidden + i, lanes), s = sigmoid(h);
    write(d_hidden + i, read(d_activated + i, lanes) * s * (splat(1.0f) + h * (splat(1.0f) - s)), lanes);
  });
}

}  // namespace

Status predict_utility_backward(const PredictUtilityBackwardParams& params, Execution& execution) {
  const int64_t heads = params.weight.shape[0], width = params.weight.shape[1];
  const float* total;
  SPKV_RETURN_IF_ERROR(sum_over_rows(execution, params.hidden.shape[0], heads * (width + 1), 2 * width,
                                     &total, [&](int64_t begin, int64_t end, float* sums, float* own) {
                                       const bool narrow = params.weight.dtype == DType::kBF16;
                                       for (int64_t t = begin; t < end; t++)
                                         narrow ? backward_token<uint16_t>(params, t, sums, own)
                                                : backward_token<float>(params, t, sums, own);
                                     }));
  for (int64_t g = 0; g < heads; g++)
    add_to(params.d_weight.as<float>() + g * params.d_weight.stride[0], total + g * width, width);
  add_to(params.d_bias.as<float>(), total + heads * width, heads);
  return Status();
}

SPKV_ISA_END
