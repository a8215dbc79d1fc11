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

constexpr int kWidth = 2;
constexpr unsigned kHeadsPerBlock = 8;

// Block (t, i) rotates heads [8 i, 8 i + 8) of token t, a warp to a head.
template <typename T>
__global__ void __launch_bounds__(32 * kHeadsPerBlock) rope_kernel(RopeParams params, bool aligned) {
  const View &out = params.out, &x = params.x;
  const int64_t t = blockIdx.x, h = int64_t{blockIdx.y} * kHeadsPerBlock + threadIdx.y,
                half = out.shape[2] / 2;
  if (h >= out.shape[1]) return;
  const float* cosines = params.angles.as<const float>() + t * params.angles.stride[0];
  const float* sines = cosines + half;
  T* to = out.as<T>() + t * out.stride[0] + h * out.stride[1];
  const T* from = x.as<const T>() + t * x.stride[0] + h * x.stride[1];
  for_elements<kWidth>(half, aligned, [&](int64_t i, auto elements) {
    auto a = load_floats(from + i, elements), b = load_floats(from + half + i, elements);
    const auto c = load(cosines + i, elements), s = load(sines + i, elements);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof a.at / sizeof a.at[0]); j++) {
      const float sine = params.inverse ? -s.at[j] : s.at[j];
      const float first = a.at[j] * c.at[j] - b.at[j] * sine;
      b.at[j] = b.at[j] * c.at[j] + a.at[j] * sine;
      a.at[j] = first;
    }
    store(to + i, convert<T>(a), elements);
    store(to + half + i, convert<T>(b), elements);
  });
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
  const bool aligned = params.out.shape[2] / 2 % kWidth == 0 && starts_aligned(params.out, kWidth) &&
                       starts_aligned(params.x, kWidth) && starts_aligned(params.angles, kWidth);
  LaunchShape shape;
  shape.grid =
      dim3(static_cast<unsigned>(params.out.shape[0]), blocks_for(params.out.shape[1], kHeadsPerBlock));
  shape.block = dim3(32, kHeadsPerBlock);
  const auto kernel = params.x.dtype == DType::kBF16 ? rope_kernel<uint16_t> : rope_kernel<float>;
  return check(launch(on.stream(), shape, kernel, params, aligned), "rope");
}

}  // namespace cuda
}  // namespace spkv
