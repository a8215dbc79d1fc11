#include "ops/rope.h"

#include "cpu/rows.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN

Status rotary_angles(const RotaryAnglesParams& params, Execution& execution) {
  const View& out = params.out;
  const int32_t* positions = params.positions.as<int32_t>();
  const float* frequencies = params.inverse_frequencies.as<float>();
  const int64_t half = out.shape[1] / 2;
  constexpr int64_t kTrigonometricCost = 64;  // a sine and a cosine, in elements
  for_rows(execution, out.shape[0], half * kTrigonometricCost, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      float* row = out.as<float>() + t * out.stride[0];
      const double position = positions[t * params.positions.stride[0]];
      for (int64_t i = 0; i < half; i++) {
        const double angle = position * static_cast<double>(frequencies[i]);
        row[i] = static_cast<float>(__builtin_cos(angle));
        row[half + i] = static_cast<float>(__builtin_sin(angle));
      }
    }
  });
  return Status();
}

Status rope(const RopeParams& params, Execution& execution) {
  const View &out = params.out, &x = params.x, &angles = params.angles;
  const int64_t heads = out.shape[1], half = out.shape[2] / 2;
  for_rows(execution, out.shape[0], heads * half * 2, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float* cosines = angles.as<float>() + t * angles.stride[0];
      const float* sines = cosines + half;
      for (int64_t h = 0; h < heads; h++) {
        float* to = out.as<float>() + t * out.stride[0] + h * out.stride[1];
        const float* from = x.as<float>() + t * x.stride[0] + h * x.stride[1];
        for_lanes(half, [&](int64_t i, auto lanes) {
          const vf a = read(from + i, lanes), b = read(from + half + i, lanes);
          const vf c = read(cosines + i, lanes), sine = read(sines + i, lanes);
          const vf s = params.inverse ? -sine : sine;
          write(to + i, a * c - b * s, lanes);
          write(to + half + i, b * c + a * s, lanes);
        });
      }
    }
  });
  return Status();
}

SPKV_ISA_END
