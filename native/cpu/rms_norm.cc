#include "ops/rms_norm.h"

#include "cpu/row_sums.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN
namespace {

float sum_of_squares(const float* x, int64_t n) {
  constexpr int kChains = 4;  // as many sums in flight as the latency of an addition asks for
  vf chains[kChains] = {};
  int64_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
    for (int j = 0; j < kChains; j++) {
      vf v = loadf(x + i + j * kLanes);
      chains[j] += v * v;
    }
  }
  for_lanes(n - i, [&](int64_t j, auto lanes) {
    vf v = read(x + i + j, lanes);
    chains[0] += v * v;
  });
  return sum((chains[0] + chains[1]) + (chains[2] + chains[3]));
}

template <typename W>
void normalize(const RmsNormParams& params, Execution& execution) {
  const View &out = params.out, &x = params.x;
  const W* weight = params.weight.as<W>();
  const bool heads = out.rank == 3;
  const int64_t count = heads ? out.shape[1] : 1, columns = out.shape[out.rank - 1];
  const int64_t out_step = heads ? out.stride[1] : 0, x_step = heads ? x.stride[1] : 0;
  for_rows(execution, out.shape[0], count * columns * 2, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      for (int64_t h = 0; h < count; h++) {
        float* to = out.as<float>() + t * out.stride[0] + h * out_step;
        const float* from = x.as<float>() + t * x.stride[0] + h * x_step;
        const float mean = sum_of_squares(from, columns) / static_cast<float>(columns);
        const vf scale = splat(1.0f / __builtin_sqrtf(mean + params.epsilon));
        for_lanes(columns, [&](int64_t i, auto lanes) {
          write(to + i, read(from + i, lanes) * scale * read(weight + i, lanes), lanes);
        });
      }
    }
  });
}

// Row by row: from dy, x and the weight to dx, and what the row adds to the gradient of the weight.
template <typename W>
void backward_row(const RmsNormBackwardParams& params, float* dx, const float* dy, const float* x, int64_t n,
                  float* d_weight) {
  const W* weight = params.weight.as<W>();
  const float mean = sum_of_squares(x, n) / static_cast<float>(n);
  const float root = 1.0f / __builtin_sqrtf(mean + params.epsilon);
  vf products = {};
  for_lanes(n, [&](int64_t i, auto lanes) {
    products += read(dy + i, lanes) * read(weight + i, lanes) * read(x + i, lanes);
  });
  const vf scale = splat(root), shift = splat(root * root * root * sum(products) / static_cast<float>(n));
  for_lanes(n, [&](int64_t i, auto lanes) {
    const vf d = read(dy + i, lanes), from = read(x + i, lanes);
    write(d_weight + i, read(d_weight + i, lanes) + d * from * scale, lanes);
    const vf result = d * read(weight + i, lanes) * scale - from * shift;
    write(dx + i, params.accumulate ? read(dx + i, lanes) + result : result, lanes);
  });
}

template <typename W>
Status backward(const RmsNormBackwardParams& params, Execution& execution) {
  const View &dx = params.dx, &dy = params.dy, &x = params.x;
  const bool heads = x.rank == 3;
  const int64_t count = heads ? x.shape[1] : 1, columns = x.shape[x.rank - 1];
  const auto row = [&](const View& view, int64_t r) {
    return view.as<float>() + r / count * view.stride[0] + (heads ? r % count * view.stride[1] : 0);
  };
  const float* total;
  SPKV_RETURN_IF_ERROR(sum_over_rows(execution, x.shape[0] * count, columns, 0, &total,
                                     [&](int64_t begin, int64_t end, float* sums, float*) {
                                       for (int64_t r = begin; r < end; r++)
                                         backward_row<W>(params, row(dx, r), row(dy, r), row(x, r), columns,
                                                         sums);
                                     }));
  if (params.copy) {
    CopyParams rounded;
    rounded.out = params.copy, rounded.x = dx;
    SPKV_RETURN_IF_ERROR(copy(rounded, execution));
  }
  add_to(params.d_weight.as<float>(), total, columns);
  return Status();
}

}  // namespace

Status rms_norm_backward(const RmsNormBackwardParams& params, Execution& execution) {
  return params.weight.dtype == DType::kBF16 ? backward<uint16_t>(params, execution)
                                             : backward<float>(params, execution);
}

Status rms_norm(const RmsNormParams& params, Execution& execution) {
  params.weight.dtype == DType::kBF16 ? normalize<uint16_t>(params, execution)
                                      : normalize<float>(params, execution);
  return Status();
}

SPKV_ISA_END
