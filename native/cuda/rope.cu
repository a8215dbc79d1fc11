#include "ops/rope.h"

#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/context.h"

namespace spkv {
namespace cuda {
namespace {

struct Turn {
  float cosine, sine;
};

// The library's sincos keeps an array in local memory for arguments that do not occur here. This one is good
// to about 1e-16 up to 2^32.
__device__ Turn turn(double angle) {
  // The angle less the nearest multiple of pi/2, which is subtracted in three parts of 53 bits.
  const double quarters = rint(angle * 0.63661977236758134308);
  double r = fma(-quarters, 1.5707963267948966, angle);
  r = fma(-quarters, 6.123233995736766e-17, r);
  r = fma(-quarters, -1.4973849048591833e-33, r);
  // Taylor's series for |r| <= pi/4, the terms up to r^17 and r^16.
  const double square = r * r;
  double sine = 1, cosine = 1;
#pragma unroll
  for (int n = 16; n > 0; n -= 2) {
    sine = fma(sine * square, -1.0 / (n * (n + 1)), 1.0);
    cosine = fma(cosine * square, -1.0 / (n * (n - 1)), 1.0);
  }
  sine *= r;
  const long long quadrant = static_cast<long long>(quarters);
  const float s = static_cast<float>(quadrant & 1 ? cosine : sine);
  const float c = static_cast<float>(quadrant & 1 ? sine : cosine);
  return {(quadrant + 1) & 2 ? -c : c, quadrant & 2 ? -s : s};
}

constexpr int kAngleThreads = 128;

// A thread per angle.
__global__ void __launch_bounds__(kAngleThreads) rotary_angles_kernel(RotaryAnglesParams params) {
  const int64_t half = params.inverse_frequencies.shape[0];
  const int64_t item = int64_t{blockIdx.x} * kAngleThreads + threadIdx.x, t = item / half, i = item % half;
  if (t >= params.out.shape[0]) return;
  const double position = params.positions.as<const int32_t>()[t * params.positions.stride[0]];
  const Turn result = turn(position * static_cast<double>(params.inverse_frequencies.as<const float>()[i]));
  float* row = params.out.as<float>() + t * params.out.stride[0];
  row[i] = result.cosine;
  row[half + i] = result.sine;
}

constexpr int kWidth = 4, kThreads = 256;
constexpr int64_t kItemsPerBlock = 4 * kThreads;

// An item is N elements of a head's first half and those that turn with them. Block i has those of the tokens
// [tokens * i, tokens * (i + 1)).
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) rope_kernel(RopeParams params, int tokens) {
  constexpr Elements<N> kAligned = {true};
  const View &out = params.out, &x = params.x;
  const int half = static_cast<int>(out.shape[2] / 2), pieces = half / N;
  const int items = static_cast<int>(out.shape[1]) * pieces;  // of a token
  for (int item = threadIdx.x; item < tokens * items; item += kThreads) {
    const int64_t t = int64_t{blockIdx.x} * tokens + item / items, h = item % items / pieces;
    if (t >= out.shape[0]) return;
    const int i = item % pieces * N;
    const float* cosines = params.angles.as<const float>() + t * params.angles.stride[0] + i;
    const T* from = x.as<const T>() + t * x.stride[0] + h * x.stride[1] + i;
    auto a = load_floats(from, kAligned), b = load_floats(from + half, kAligned);
    const auto c = load(cosines, kAligned), s = load(cosines + half, kAligned);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float sine = params.inverse ? -s.at[j] : s.at[j];
      const float first = a.at[j] * c.at[j] - b.at[j] * sine;
      b.at[j] = b.at[j] * c.at[j] + a.at[j] * sine;
      a.at[j] = first;
    }
    T* to = out.as<T>() + t * out.stride[0] + h * out.stride[1] + i;
    store(to, convert<T>(a), kAligned);
    store(to + half, convert<T>(b), kAligned);
  }
}

template <int N>
auto rope_kernel_for(DType dtype) {
  return dtype == DType::kBF16 ? rope_kernel<uint16_t, N> : rope_kernel<float, N>;
}

}  // namespace

Status rotary_angles(const RotaryAnglesParams& params, Execution& execution) {
  Context& on = context(execution);
  const int64_t items = params.out.shape[0] * params.inverse_frequencies.shape[0];
  if (items == 0) return Status();
  LaunchShape shape;
  shape.grid = dim3(blocks_for(items, kAngleThreads));
  shape.block = dim3(kAngleThreads);
  return check(launch(on.stream(), shape, rotary_angles_kernel, params), "rotary_angles");
}

Status rope(const RopeParams& params, Execution& execution) {
  Context& on = context(execution);
  if (params.out.size() == 0) return Status();
  const int64_t tokens = params.out.shape[0], half = params.out.shape[2] / 2;
  const bool wide = half % kWidth == 0 && starts_aligned(params.out, kWidth) &&
                    starts_aligned(params.x, kWidth) && starts_aligned(params.angles, kWidth);
  const int64_t items = params.out.shape[1] * (wide ? half / kWidth : half),
                together = items < kItemsPerBlock ? kItemsPerBlock / items : 1;
  LaunchShape shape;
  shape.grid = dim3(blocks_for(tokens, together));
  shape.block = dim3(kThreads);
  const auto kernel = wide ? rope_kernel_for<kWidth>(params.x.dtype) : rope_kernel_for<1>(params.x.dtype);
  return check(launch(on.stream(), shape, kernel, params, static_cast<int>(together)), "rope");
}

}  // namespace cuda
}  // namespace spkv
