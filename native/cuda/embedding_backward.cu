// Rows are added atomically: which token comes first differs from run to run, and with it the last bits.
#include <string>

#include "cuda/common/fault.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/elements.cuh"
#include "cuda/context.h"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// One launch only looks at the ids, so that the table stays as it was when one of them is bad.
__global__ void __launch_bounds__(kThreads)
    check_ids_kernel(EmbeddingBackwardParams params, Fault* fault, int site) {
  const int64_t t = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (t >= params.ids.shape[0]) return;
  const int32_t id = params.ids.as<const int32_t>()[t * params.ids.stride[0]];
  if (id < 0 || id >= params.d_table.shape[0]) raise_fault(fault, site, t, static_cast<uint32_t>(id));
}

// A block to a token.
__global__ void __launch_bounds__(kThreads)
    embedding_backward_kernel(EmbeddingBackwardParams params, const Fault* fault) {
  if (faulty(fault)) return;
  const int64_t t = blockIdx.x, id = params.ids.as<const int32_t>()[t * params.ids.stride[0]];
  float* to = params.d_table.as<float>() + id * params.d_table.stride[0];
  const float* from = params.dy.as<const float>() + t * params.dy.stride[0];
  for (int64_t c = threadIdx.x; c < params.dy.shape[1]; c += blockDim.x) atomicAdd(to + c, from[c]);
}

}  // namespace

Status embedding_backward(const EmbeddingBackwardParams& params, Execution& execution) {
  Context& on = context(execution);
  const int64_t tokens = params.ids.shape[0];
  if (tokens == 0 || params.dy.shape[1] == 0) return Status();
  const long long last = params.d_table.shape[0] - 1;
  const int site =
      on.fault_site("embedding_backward ids up to " + std::to_string(last), [last](int64_t t, uint32_t id) {
        return fail(Code::kOutOfRange, "Expected an id from 0 to %lld for ids[%lld] but received %d", last,
                    static_cast<long long>(t), static_cast<int32_t>(id));
      });
  LaunchShape shape;
  shape.grid = dim3(blocks_for(tokens, kThreads));
  shape.block = dim3(kThreads);
  SPKV_RETURN_IF_ERROR(
      check(launch(on.stream(), shape, check_ids_kernel, params, on.fault(), site), "embedding_backward"));
  shape.grid = dim3(static_cast<unsigned>(tokens));
  shape.block = dim3(threads_for(params.dy.shape[1], kThreads));
  return check(launch(on.stream(), shape, embedding_backward_kernel, params, on.fault()),
               "embedding_backward");
}

}  // namespace cuda
}  // namespace spkv
