#include "ops/predict_utility.h"

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
        write(out + g, params.log ? log_sigmoid(z) : sigmoid(z), lanes);
      });
    }
  });
  return Status();
}

SPKV_ISA_END
