// Insertion and positions on CUDA: which kernels a step takes. decode_insert.cu and insert_lists.cu move the
// data.
#include "ops/insert.h"

#include "cuda/cache.h"
#include "cuda/check_logits.h"
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

// Everything that an insertion needs beside the cache, for `lists` lists.
struct InsertMemory {
  ListPlan* plans = nullptr;
  int32_t* free_top = nullptr;
  uint8_t* scales = nullptr;
};

// Scales of fp8 pairs, and, where `lists` is not 0, the plans of insert_lists.
Status take_memory(Context& context, const NewPairs& pairs, DType dtype, int64_t lists,
                   InsertMemory* memory) {
  int64_t plan_bytes = lists * static_cast<int64_t>(sizeof(ListPlan));
  int64_t rows = dtype == DType::kFP8 ? int64_t{pairs.layers} * pairs.tokens * pairs.kv_heads : 0;
  Status status;
  void* taken = context.scratch(Scratch::kInsert, plan_bytes + 4 + 2 * rows, &status);
  if (!taken) return status;
  memory->plans = static_cast<ListPlan*>(taken);
  memory->free_top = reinterpret_cast<int32_t*>(memory->plans + lists);
  memory->scales = reinterpret_cast<uint8_t*>(memory->free_top + 1);
  return Status();
}

Status insert_any(Context& context, CudaCache& cache, const Step& step, const NewPairs& pairs,
                  const InsertMemory& memory) {
  InsertListsParams params;
  params.cache = cache.state();
  params.pairs = pairs;
  params.faults = cache.insert_faults();
  params.batch = step.batch;
  params.slots = step.device_slots;
  params.offsets = step.device_offsets;
  params.shared = step.shared;
  params.plans = memory.plans;
  params.free_top = memory.free_top;
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
  bool decode = step.decode && state.swizzled && !step.shared;
  InsertMemory memory;
  SPKV_RETURN_IF_ERROR(
      take_memory(context, pairs, state.dtype, decode ? 0 : cache.geometry().lists() * step.batch, &memory));
  pairs.scales = memory.scales;
  SPKV_RETURN_IF_ERROR(
      check(check_pairs(pairs, state.dtype, cache.insert_faults(), context.stream()), "checking new pairs"));
  if (params.logits) SPKV_RETURN_IF_ERROR(check_logits(params.logits, context));
  if (decode) {
    StepPlan plan;
    SPKV_RETURN_IF_ERROR(cache.plan(context, step, &plan));
    SPKV_RETURN_IF_ERROR(check(decode_insert({state, plan, pairs, cache.insert_faults()}, context.stream()),
                               "inserting pairs"));
  } else {
    SPKV_RETURN_IF_ERROR(insert_any(context, cache, step, pairs, memory));
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
