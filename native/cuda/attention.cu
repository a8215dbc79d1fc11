// Attention over the cache, on CUDA: which kernels a step runs.
#include "ops/attention.h"

#include "cuda/cache.h"
#include "cuda/common/launch.cuh"
#include "cuda/common/pairs.cuh"
#include "cuda/decode_attention.h"
#include "cuda/general_attention.h"
#include "cuda/prefill_attention.h"
#include "cuda/rounded_output.h"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostDecodeGroup = 16;

// What decode_attention needs and the tensors are not: bf16 queries and, behind those of a sequence, its new
// keys and values in the cache's dtype; and arrivals that are 0.
struct DecodeRows {
  View q, keys, values;
  uint8_t* rows;      // [B] of H queries, G keys and G values
  int32_t* arrivals;  // [B * G]
  int64_t pair_row_bytes;
  bool fp8;

  __host__ __device__ int64_t query_bytes() const { return q.shape[1] * q.shape[2] * 2; }
  __host__ __device__ int64_t sequence_bytes() const {
    return query_bytes() + 2 * keys.shape[1] * pair_row_bytes;
  }
};

// Writes 8 numbers of an fp8 row, whose others the lanes beside this one have.
__device__ __forceinline__ void write_fp8(const float (&x)[kChunkDims], int chunk, int chunks, uint8_t* row) {
  uint32_t largest = 0;
  for (float number : x) largest = max(largest, fp8::magnitude(number));
  for (int step = 1; step < chunks; step *= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, step));
  if (!row) return;
  uint8_t scale = fp8::scale_of(largest);
  uint32_t words[2] = {};
  for (int i = 0; i < kChunkDims; i++) words[i / 4] |= uint32_t{fp8::encode(x[i], scale)} << (i % 4 * 8);
  reinterpret_cast<uint2*>(row)[chunk] = make_uint2(words[0], words[1]);
  if (chunk == 0) reinterpret_cast<uint4*>(row)[chunks / 2] = make_uint4(scale, 0, 0, 0);
}

// A thread makes 8 components of a row.
__global__ void __launch_bounds__(kThreads) round_rows(const __grid_constant__ DecodeRows p) {
  // In this order, because the next launch reads the cache and its plan without waiting for this one: it must
  // not begin before those that changed them have ended.
  wait_for_previous_launch();
  allow_next_launch();
  int heads = static_cast<int>(p.q.shape[1]), kv_heads = static_cast<int>(p.keys.shape[1]);
  int chunks = static_cast<int>(p.q.shape[2]) / kChunkDims, rows = heads + 2 * kv_heads;
  int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index < p.q.shape[0] * kv_heads) p.arrivals[index] = 0;
  bool there = index < p.q.shape[0] * rows * chunks;
  int chunk = static_cast<int>(index % chunks), row = static_cast<int>(index / chunks % rows);
  int64_t b = there ? index / chunks / rows : 0;
  bool query = row < heads;
  const View& tensor = query ? p.q : row < heads + kv_heads ? p.keys : p.values;
  int64_t head = query ? row : (row - heads) % kv_heads;
  const float* from = static_cast<const float*>(tensor.data) + b * tensor.stride[0] +
                      head * tensor.stride[1] + chunk * kChunkDims;
  float x[kChunkDims];
  load_numbers(from, reinterpret_cast<uintptr_t>(from) % sizeof(float4) == 0, x);
  uint8_t* sequence = p.rows + b * p.sequence_bytes();
  uint8_t* pair = sequence + p.query_bytes() + (row - heads) * p.pair_row_bytes;
  if (p.fp8) write_fp8(x, chunk, chunks, there && !query ? pair : nullptr);
  if (!there || (p.fp8 && !query)) return;
  uint8_t* to = query ? sequence + int64_t{row} * chunks * kChunkBytes : pair;
  reinterpret_cast<uint4*>(to)[chunk] =
      make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
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
  DecodeRows input = {params.q,
                      params.keys,
                      params.values,
                      nullptr,
                      nullptr,
                      decode_row_bytes(dim, decode.cache.dtype),
                      decode.cache.dtype == DType::kFP8};
  int64_t row_bytes = step.tokens * input.sequence_bytes();
  int64_t arrival_bytes = aligned_16(step.tokens * kv_heads * 4);
  int64_t partials = decode_partial_floats(dim, decode.heads / kv_heads, decode.plan.blocks);
  Status status;
  auto* memory = static_cast<uint8_t*>(
      context.scratch(Scratch::kAttention, row_bytes + arrival_bytes + partials * 4, &status));
  if (!memory) return status;

  input.rows = memory;
  input.arrivals = reinterpret_cast<int32_t*>(memory + row_bytes);
  LaunchShape shape;
  shape.grid = dim3(blocks_for(step.tokens * (decode.heads + 2 * kv_heads) * (dim / kChunkDims), kThreads));
  shape.block = dim3(kThreads);
  shape.early = true;
  SPKV_RETURN_IF_ERROR(check(launch(context.stream(), shape, round_rows, input), "rounding queries"));

  decode.q = reinterpret_cast<const __nv_bfloat16*>(memory);
  decode.keys = memory + input.query_bytes();
  decode.values = memory + input.query_bytes() + kv_heads * input.pair_row_bytes;
  decode.kv_stride = input.sequence_bytes();
  decode.q_stride = input.sequence_bytes() / 2;
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

PrefillAttentionParams prefill_params(const AttentionParams& params, const Step& step, const CudaCache& cache,
                                      const Context& context) {
  PrefillAttentionParams prefill;
  prefill.out = params.out;
  prefill.q = params.q;
  prefill.keys = params.keys;
  prefill.values = params.values;
  prefill.utilities = params.utilities;
  prefill.cache = cache.state();
  prefill.slots = step.device_slots;
  prefill.offsets = step.device_offsets;
  prefill.batch = step.batch;
  prefill.tokens = step.tokens;
  prefill.longest = step.longest;
  prefill.layer = static_cast<int>(params.layer);
  prefill.heads = static_cast<int>(params.q.shape[1]);
  prefill.scale = params.scale;
  prefill.kept_pages = cache.kept_pages(context, step);
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
  PrefillAttentionParams prefill = prefill_params(params, step, cache, context);
  if (!step.decode && !context.exact() && prefill_takes(prefill)) {
    Status status = prefill_attention(prefill, context);
    // Without memory for bf16 pages of an fp8 cache there is still the slow way.
    if (status.code != Code::kOutOfMemory || cache.state().dtype != DType::kFP8) return status;
  }
  return general_attention(params, step, cache.state(), context);
}

}  // namespace cuda
}  // namespace spkv
