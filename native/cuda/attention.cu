// Attention over the cache, on CUDA: which kernels a step runs.
#include "ops/attention.h"

#include "cuda/cache.h"
#include "cuda/common/launch.cuh"
#include "cuda/common/page.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/decode_attention.h"
#include "cuda/general_attention.h"
#include "cuda/prefill_attention.h"
#include "cuda/rounded_output.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostDecodeGroup = 16;

// What decode_attention needs and the tensors are not: bf16 rows one after another, the new keys and values
// of a sequence behind its queries, and arrivals that are 0.
struct DecodeRows {
  View q, keys, values;
  uint4* rows;        // [B, H + 2G, D] bf16
  int32_t* arrivals;  // [B * G]
};

// A thread makes one chunk of 8 components.
__global__ void __launch_bounds__(kThreads) round_rows(const __grid_constant__ DecodeRows p) {
  // In this order, because the next launch reads the cache and its plan without waiting for this one: it must
  // not begin before those that changed them have ended.
  wait_for_previous_launch();
  allow_next_launch();
  int heads = static_cast<int>(p.q.shape[1]), kv_heads = static_cast<int>(p.keys.shape[1]);
  int chunks = static_cast<int>(p.q.shape[2]) / kChunkDims, rows = heads + 2 * kv_heads;
  int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index < p.q.shape[0] * kv_heads) p.arrivals[index] = 0;
  if (index >= p.q.shape[0] * rows * chunks) return;
  int chunk = static_cast<int>(index % chunks), row = static_cast<int>(index / chunks % rows);
  int64_t b = index / chunks / rows;
  const View& tensor = row < heads ? p.q : row < heads + kv_heads ? p.keys : p.values;
  int64_t head = row < heads ? row : (row - heads) % kv_heads;
  const float* from = static_cast<const float*>(tensor.data) + b * tensor.stride[0] +
                      head * tensor.stride[1] + chunk * kChunkDims;
  float4 low, high;
  if (reinterpret_cast<uintptr_t>(from) % sizeof(float4) == 0) {
    low = reinterpret_cast<const float4*>(from)[0];
    high = reinterpret_cast<const float4*>(from)[1];
  } else {
    low = {from[0], from[1], from[2], from[3]};
    high = {from[4], from[5], from[6], from[7]};
  }
  p.rows[index] = {pack_bf16(low.x, low.y), pack_bf16(low.z, low.w), pack_bf16(high.x, high.y),
                   pack_bf16(high.z, high.w)};
}

int64_t aligned_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

bool decode_takes(const AttentionParams& params, const Step& step, const CacheState& cache,
                  const Context& context) {
  return step.decode && cache.swizzled && params.q.shape[1] / cache.kv_heads <= kMostDecodeGroup &&
         params.scale > 0 && context.compute_capability() >= 90 && !context.exact();
}

Status decode(const AttentionParams& params, const Step& step, CudaCache& cache, Context& context) {
  DecodeAttentionParams decode;
  SPKV_RETURN_IF_ERROR(cache.plan(context, step, &decode.plan));
  decode.cache = cache.state();
  int dim = decode.cache.head_dim, kv_heads = decode.cache.kv_heads;
  decode.heads = static_cast<int>(params.q.shape[1]);
  int64_t rows = decode.heads + 2 * kv_heads, row_bytes = step.tokens * rows * dim * 2;
  int64_t arrival_bytes = aligned_16(step.tokens * kv_heads * 4);
  int64_t partials = decode_partial_floats(dim, decode.heads / kv_heads, decode.plan.blocks);
  Status status;
  auto* memory = static_cast<uint8_t*>(
      context.scratch(Scratch::kAttention, row_bytes + arrival_bytes + partials * 4, &status));
  if (!memory) return status;

  DecodeRows input = {params.q, params.keys, params.values, reinterpret_cast<uint4*>(memory),
                      reinterpret_cast<int32_t*>(memory + row_bytes)};
  LaunchShape shape;
  shape.grid = dim3(blocks_for(row_bytes / kChunkBytes, kThreads));
  shape.block = dim3(kThreads);
  shape.early = true;
  SPKV_RETURN_IF_ERROR(check(launch(context.stream(), shape, round_rows, input), "rounding queries"));

  decode.q = reinterpret_cast<const __nv_bfloat16*>(memory);
  decode.keys = decode.q + int64_t{decode.heads} * dim;
  decode.values = decode.keys + int64_t{kv_heads} * dim;
  decode.q_stride = decode.kv_stride = rows * dim;
  decode.out = params.out.data;
  decode.bf16_out = params.out.dtype == DType::kBF16;
  decode.out_stride = params.out.stride[0];
  decode.out_head_stride = params.out.stride[1];
  decode.arrivals = input.arrivals;
  decode.partials = reinterpret_cast<float*>(memory + row_bytes + arrival_bytes);
  decode.layer = static_cast<int>(params.layer);
  decode.scale = params.scale;
  decode.overlap_previous = true;  // with round_rows
  return check(decode_attention(decode, context.stream()), "attention");
}

PrefillAttentionParams prefill_params(const AttentionParams& params, const Step& step,
                                      const CacheState& cache) {
  PrefillAttentionParams prefill;
  prefill.out = params.out;
  prefill.q = params.q;
  prefill.keys = params.keys;
  prefill.values = params.values;
  prefill.utilities = params.utilities;
  prefill.cache = cache;
  prefill.slots = step.device_slots;
  prefill.offsets = step.device_offsets;
  prefill.batch = step.batch;
  prefill.tokens = step.tokens;
  prefill.longest = step.longest;
  prefill.layer = static_cast<int>(params.layer);
  prefill.heads = static_cast<int>(params.q.shape[1]);
  prefill.scale = params.scale;
  return prefill;
}

}  // namespace

Status attention(const AttentionParams& params, Execution& execution) {
  Context& context = cuda::context(execution);
  CudaCache& cache = *static_cast<CudaCache*>(params.cache);
  Step step;
  SPKV_RETURN_IF_ERROR(cache.begin_step(context, params.slots, params.offsets, params.q.shape[0], &step));
  if (step.tokens == 0) return Status();
  if (decode_takes(params, step, cache.state(), context)) return decode(params, step, cache, context);
  if (params.out.dtype == DType::kBF16) return round_output(params, execution, attention);
  PrefillAttentionParams prefill = prefill_params(params, step, cache.state());
  if (!step.decode && !context.exact() && prefill_takes(prefill)) return prefill_attention(prefill, context);
  return general_attention(params, step, cache.state(), context);
}

}  // namespace cuda
}  // namespace spkv
