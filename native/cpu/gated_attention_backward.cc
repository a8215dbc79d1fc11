// The backward of attention with gates, on the CPU.
#include <cstring>

#include "cpu/documents.h"
#include "ops/gated_attention.h"

SPKV_ISA_BEGIN
namespace {

float* row(const View& view, int64_t token, int64_t head) {
  return view.as<float>() + token * view.stride[0] + head * view.stride[1];
}

float dot(const float* a, const float* b, int64_t n) {
  float total = 0;
  for (int64_t d = 0; d < n; d++) total += a[d] * b[d];
  return total;
}

void add_scaled(float* out, float factor, const float* x, int64_t n) {
  for (int64_t d = 0; d < n; d++) out[d] += factor * x[d];
}

// Query t of head h over the keys [begin, t].
void add_query(const GatedAttentionBackwardParams& params, int64_t begin, int64_t t, int64_t h) {
  const int64_t dim = params.q.shape[2], g = h * params.keys.shape[1] / params.q.shape[1];
  const float *q = row(params.q, t, h), *d_out = row(params.d_out, t, h);
  const float own = dot(d_out, row(params.out, t, h), dim);
  const float log_sum = params.log_sum_exp.as<float>()[t * params.log_sum_exp.stride[0] + h];
  float* dq = row(params.dq, t, h);
  for (int64_t s = begin; s <= t; s++) {
    const bool gated = params.gates && t - s >= params.window;
    const float gate = gated ? params.gates.as<float>()[s * params.gates.stride[0] + g] : 0.0f;
    if (gate == -__builtin_inff()) continue;
    const float *k = row(params.keys, s, g), *v = row(params.values, s, g);
    const float weight = __builtin_expf(params.scale * dot(q, k, dim) + gate - log_sum);
    const float d_score = weight * (dot(d_out, v, dim) - own);
    add_scaled(row(params.dv, s, g), weight, d_out, dim);
    add_scaled(row(params.dk, s, g), params.scale * d_score, q, dim);
    add_scaled(dq, params.scale * d_score, k, dim);
    if (gated && params.d_gates) params.d_gates.as<float>()[s * params.d_gates.stride[0] + g] += d_score;
  }
}

void clear(const View& view, int64_t token, int64_t head) {
  memset(row(view, token, head), 0, static_cast<size_t>(view.shape[2]) * sizeof(float));
}

}  // namespace

Status gated_attention_backward(const GatedAttentionBackwardParams& params, Execution& execution) {
  SPKV_RETURN_IF_ERROR(check_offsets(params.offsets, params.q.shape[0]));
  const int32_t* offsets = params.offsets.as<int32_t>();
  const int64_t heads = params.keys.shape[1], group = params.q.shape[1] / heads;
  parallel(execution, (params.offsets.shape[0] - 1) * heads, [&](int64_t item, int) {
    const int64_t document = item / heads, g = item % heads;
    for (int64_t t = offsets[document]; t < offsets[document + 1]; t++) {
      clear(params.dk, t, g);
      clear(params.dv, t, g);
      if (params.d_gates) params.d_gates.as<float>()[t * params.d_gates.stride[0] + g] = 0;
      for (int64_t h = g * group; h < (g + 1) * group; h++) {
        clear(params.dq, t, h);
        add_query(params, offsets[document], t, h);
      }
    }
  });
  return Status();
}

SPKV_ISA_END
