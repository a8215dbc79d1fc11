// Insertion and positions on CUDA: which kernels a step takes. decode_insert.cu and insert_lists.cu move the
// data.
#include "ops/insert.h"

#include "cuda/cache.h"
#include "cuda/common/launch.cuh"
#include "cuda/decode_insert.h"
#include "cuda/insert_lists.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 128;

// One block per sequence.
__global__ void __launch_bounds__(kThreads)
    positions_kernel(int32_t* out, const int32_t* length, const int32_t* slots, const int32_t* offsets) {
  int begin = offsets[blockIdx.x], end = offsets[blockIdx.x + 1], first = length[slots[blockIdx.x]];
  for (int i = begin + threadIdx.x; i < end; i += kThreads) out[i] = first + i - begin;
}

Status insert_any(Context& context, CudaCache& cache, const Step& step, const NewPairs& pairs) {
  InsertListsParams params;
  params.cache = cache.state();
  params.pairs = pairs;
  params.faults = cache.insert_faults();
  params.batch = step.batch;
  params.slots = step.device_slots;
  params.offsets = step.device_offsets;
  params.shared = step.shared;
  int64_t lists = cache.geometry().lists() * step.batch;
  Status status;
  void* memory =
      context.scratch(Scratch::kInsert, lists * static_cast<int64_t>(sizeof(ListPlan)) + 4, &status);
  if (!memory) return status;
  params.plans = static_cast<ListPlan*>(memory);
  params.free_top = reinterpret_cast<int32_t*>(params.plans + lists);
  return check(insert_lists(params, context.stream()), "inserting pairs");
}

}  // namespace

Status insert(const InsertParams& params, Execution& execution) {
  Context& context = cuda::context(execution);
  CudaCache& cache = *static_cast<CudaCache*>(params.cache);
  Step step;
  SPKV_RETURN_IF_ERROR(cache.begin_step(context, params.slots, params.offsets, params.keys.shape[1], &step));
  if (step.tokens == 0) return Status();
  const CacheState& state = cache.state();
  NewPairs pairs(params.keys, params.values, params.utilities);
  SPKV_RETURN_IF_ERROR(
      check(check_pairs(pairs, state.bf16, cache.insert_faults(), context.stream()), "checking new pairs"));
  if (step.decode && state.swizzled && !step.shared) {
    StepPlan plan;
    SPKV_RETURN_IF_ERROR(cache.plan(context, step, &plan));
    SPKV_RETURN_IF_ERROR(check(decode_insert({state, plan, pairs, cache.insert_faults()}, context.stream()),
                               "inserting pairs"));
  } else {
    SPKV_RETURN_IF_ERROR(insert_any(context, cache, step, pairs));
  }
  cache.inserted(context, step);
  return Status();
}

Status positions(const PositionsParams& params, Execution& execution) {
  Context& context = cuda::context(execution);
  CudaCache& cache = *static_cast<CudaCache*>(params.cache);
  Step step;
  SPKV_RETURN_IF_ERROR(cache.begin_step(context, params.slots, params.offsets, params.out.shape[0], &step));
  if (step.tokens == 0) return Status();
  context.overwritten(params.out);
  return check(
      launch(context.stream(), {dim3(static_cast<unsigned>(step.batch)), dim3(kThreads)}, positions_kernel,
             params.out.as<int32_t>(), static_cast<const int32_t*>(cache.state().length), step.device_slots,
             step.device_offsets),
      "counting positions");
}

}  // namespace cuda
}  // namespace spkv
