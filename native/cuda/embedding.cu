#include "ops/embedding.h"

#include "cuda/common/elements.cuh"
#include "cuda/common/fault.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/context.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWidth = 4, kTile = kThreads * kWidth;

// Block (t, i) copies tile i of the row of token t.
template <typename Out, typename T>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(EmbeddingParams params, bool aligned, Fault* fault, int site) {
  const int64_t t = blockIdx.x, start = int64_t{blockIdx.y} * kTile;
  const int32_t id = params.ids.as<const int32_t>()[t * params.ids.stride[0]];
  if (id < 0 || id >= params.table.shape[0]) {
    if (blockIdx.y == 0 && threadIdx.x == 0) raise_fault(fault, site, t, static_cast<uint32_t>(id));
    return;
  }
  Out* to = params.out.as<Out>() + t * params.out.stride[0] + start;
  const T* from = params.table.as<const T>() + id * params.table.stride[0] + start;
  const int64_t left = params.out.shape[1] - start;
  for_elements<kWidth>(left < kTile ? left : kTile, aligned, [&](int64_t i, auto elements) {
    store(to + i, convert<Out>(load_floats(from + i, elements)), elements);
  });
}

}  // namespace

Status embedding(const EmbeddingParams& params, Execution& execution) {
  Context& on = context(execution);
  if (params.ids.shape[0] == 0) return Status();
  const long long last = params.table.shape[0] - 1;
  const int site =
      on.fault_site("embedding ids up to " + std::to_string(last), [last](int64_t t, uint32_t id) {
        return fail(Code::kOutOfRange, "Expected an id from 0 to %lld for ids[%lld] but received %d", last,
                    static_cast<long long>(t), static_cast<int32_t>(id));
      });
  const bool aligned = starts_aligned(params.out, kWidth) && starts_aligned(params.table, kWidth);
  const int64_t columns = params.out.shape[1];
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(params.out.shape[0]), columns > 0 ? blocks_for(columns, kTile) : 1);
  shape.block = dim3(threads_for(blocks_for(columns, kWidth), kThreads));
  const bool narrow = params.table.dtype == DType::kBF16;
  const auto kernel =
      params.out.dtype == DType::kBF16
          ? (narrow ? embedding_kernel<uint16_t, uint16_t> : embedding_kernel<uint16_t, float>)
          : (narrow ? embedding_kernel<float, uint16_t> : embedding_kernel<float, float>);
  return check(launch(on.stream(), shape, kernel, params, aligned, on.fault(), site), "embedding");
}

}  // namespace cuda
}  // namespace spkv
