// The backward of gated attention without matrix units. Two kernels of one form: a block has a few rows of
// its own and goes through all others in steps of 32; a lane has one of these.
//
//   own rows                 others               sums
//   queries: q, dO           keys: k, v           dq += ds * k
//   keys: k, v               queries: q, dO       dk += ds * q, dv += p * dO, d_gates += ds
//
// Queries are rows (token, head of the group). Pairs of weight 0 are left out, so a pair that is removed has
// no part in any gradient, be it NaN.
#include "cuda/attention_tile.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/gated_general.h"

namespace spkv {
namespace cuda {
namespace {

struct BackwardParams {
  Rows dq, dk, dv, d_out, out, q, keys, values;
  float* d_gates = nullptr;         // or null
  const float* gates = nullptr;     // or null
  const float* log_sums = nullptr;  // [T, H]
  float* products = nullptr;        // [T, H]: dO . out
  int64_t d_gate_stride = 0, gate_stride = 0, log_sum_stride = 0;
  const int32_t* offsets = nullptr;
  int documents = 0, heads = 0, kv_heads = 0, dim = 0, window = 0;
  float scale = 1;
};

template <int kDim>
struct alignas(16) BackwardMemory {
  static constexpr int kRows = kDim <= 128 ? 4 : 2;  // of a warp
  float own[2][kTileWarps * kRows][kDim];
  float other[2][kTilePairs][kDim + 4];  // lanes that read 16 bytes of a row each use different banks
};

// What a row is in the formulas: a query has `shift` log_sum_exp and `product`, a key has `shift` gate.
struct BackwardRow {
  int position = 0;
  float shift = 0, product = 0;
};

struct BackwardDocument {
  const BackwardParams& p;
  int64_t token;
  int tokens, kv_head, group;

  __device__ __forceinline__ BackwardRow key(int i) const {
    return {i, p.gates ? p.gates[(token + i) * p.gate_stride + kv_head] : 0.0f, 0};
  }
  __device__ __forceinline__ BackwardRow query(int i) const {
    int64_t at = token + i / group, head = kv_head * group + i % group;
    return {i / group, p.log_sums[at * p.log_sum_stride + head], p.products[at * p.heads + head]};
  }
  // Component d of the first or second vector of a row.
  template <bool kKey>
  __device__ __forceinline__ float component(int which, int i, int d) const {
    if (d >= p.dim) return 0;
    if (kKey) return (which ? p.values : p.keys).row(token + i, kv_head)[d];
    return (which ? p.d_out : p.q).row(token + i / group, kv_head * group + i % group)[d];
  }
};

// Grid: 4 rows (token, head) a block.
__global__ void __launch_bounds__(kTileThreads) product_kernel(BackwardParams p, int64_t rows) {
  int64_t row = static_cast<int64_t>(blockIdx.x) * kTileWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const float *out = p.out.row(row / p.heads, row % p.heads),
              *d_out = p.d_out.row(row / p.heads, row % p.heads);
  float sum = 0;
  for (int d = threadIdx.x % 32; d < p.dim; d += 32) sum += out[d] * d_out[d];
  sum = warp_reduce(sum, Sum());
  if (threadIdx.x % 32 == 0) p.products[row] = sum;
}

// Grid: tiles of own rows as find_tile counts them, KV heads.
template <int kDim, bool kOwnKeys>
__global__ void __launch_bounds__(kTileThreads, 4)
    backward_tile_kernel(const __grid_constant__ BackwardParams p) {
  using Memory = BackwardMemory<kDim>;
  constexpr int kRows = Memory::kRows, kOwn = kTileWarps * kRows, kLaneDims = kDim / 32;
  auto* memory = reinterpret_cast<Memory*>(dynamic_shared());
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = p.heads / p.kv_heads;
  TileParams tiles;
  tiles.offsets = p.offsets;
  tiles.sequences = p.documents;
  tiles.heads = kOwnKeys ? 1 : group;
  tiles.kv_heads = 1;
  QueryTile tile;
  if (!find_tile(tiles, blockIdx.x, kOwn, &tile)) return;
  int tokens = p.offsets[tile.sequence + 1] - p.offsets[tile.sequence];
  BackwardDocument document = {p, tile.token, tokens, static_cast<int>(blockIdx.y), group};
  int first = static_cast<int>(tile.first), last = first + tile.rows - 1;
  for (int i = threadIdx.x; i < 2 * kOwn * kDim; i += kTileThreads) {
    int which = i / (kOwn * kDim), row = min(first + i / kDim % kOwn, last);
    memory->own[which][i / kDim % kOwn][i % kDim] =
        document.template component<kOwnKeys>(which, row, i % kDim);
  }
  BackwardRow own[kRows];
  float sum_a[kRows][kLaneDims] = {}, sum_b[kRows][kLaneDims] = {}, gate_sum[kRows] = {};
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    int row = min(first + warp * kRows + r, last);
    own[r] = kOwnKeys ? document.key(row) : document.query(row);
  }
  int begin = kOwnKeys ? first * group : 0, end = kOwnKeys ? tokens * group : last / group + 1;
  for (int step = begin; step < end; step += kTilePairs) {
    __syncthreads();  // the others before these have been used
    for (int i = threadIdx.x; i < 2 * kTilePairs * kDim; i += kTileThreads) {
      int which = i / (kTilePairs * kDim), row = min(step + i / kDim % kTilePairs, end - 1);
      memory->other[which][i / kDim % kTilePairs][i % kDim] =
          document.template component<!kOwnKeys>(which, row, i % kDim);
    }
    __syncthreads();
    int index = min(step + lane, end - 1);
    BackwardRow mine = kOwnKeys ? document.query(index) : document.key(index);
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      const BackwardRow &query = kOwnKeys ? mine : own[r], &key = kOwnKeys ? own[r] : mine;
      int age = query.position - key.position;
      bool far = age >= p.window, visible = step + lane < end && age >= 0 && !(far && key.shift == -INFINITY);
      float score = 0, d_weight = 0;
#pragma unroll 2
      for (int d = 0; d < kDim; d += 4) {
        float4 a = *reinterpret_cast<const float4*>(&memory->own[0][warp * kRows + r][d]);
        float4 b = *reinterpret_cast<const float4*>(&memory->own[1][warp * kRows + r][d]);
        float4 x = *reinterpret_cast<const float4*>(&memory->other[0][lane][d]);
        float4 y = *reinterpret_cast<const float4*>(&memory->other[1][lane][d]);
        score += a.x * x.x + a.y * x.y + a.z * x.z + a.w * x.w;
        d_weight += b.x * y.x + b.y * y.y + b.z * y.z + b.w * y.w;
      }
      // Above 0 only by rounding; huge scores would become infinite weights.
      float exponent = score * p.scale + (far ? key.shift : 0.0f) - query.shift;
      float weight = visible ? expf(exponent > 0 ? 0.0f : exponent) : 0.0f;
      float d_score = visible ? weight * (d_weight - query.product) : 0.0f;
      if (far) gate_sum[r] += d_score;
#pragma unroll 2
      for (int j = 0; j < kTilePairs; j++) {
        float p_j = __shfl_sync(~0u, weight, j), ds_j = __shfl_sync(~0u, d_score, j);
        if (p_j == 0) continue;
#pragma unroll
        for (int n = 0; n < kLaneDims; n++) {
          sum_a[r][n] += ds_j * memory->other[0][j][lane + 32 * n];
          if (kOwnKeys) sum_b[r][n] += p_j * memory->other[1][j][lane + 32 * n];
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    int row = first + warp * kRows + r;
    float d_gate = warp_reduce(gate_sum[r], Sum());
    if (row > last) continue;
    int64_t token = document.token + (kOwnKeys ? row : row / group);
    int head = kOwnKeys ? document.kv_head : document.kv_head * group + row % group;
    float *to_a = (kOwnKeys ? p.dk : p.dq).row(token, head),
          *to_b = kOwnKeys ? p.dv.row(token, head) : nullptr;
#pragma unroll
    for (int n = 0; n < kLaneDims; n++) {
      int d = lane + 32 * n;
      if (d < p.dim) to_a[d] = sum_a[r][n] * p.scale;
      if (kOwnKeys && d < p.dim) to_b[d] = sum_b[r][n];
    }
    if (kOwnKeys && lane == 0 && p.d_gates) p.d_gates[token * p.d_gate_stride + head] = d_gate;
  }
}

template <int kDim>
cudaError_t launch_backward(const BackwardParams& p, int64_t tokens, cudaStream_t stream) {
  constexpr int kOwn = kTileWarps * BackwardMemory<kDim>::kRows;
  auto run = [&](auto kernel, int64_t rows) {
    LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(rows / kOwn + p.documents), static_cast<unsigned>(p.kv_heads));
    shape.block = dim3(kTileThreads);
    shape.shared_bytes = static_cast<int>(sizeof(BackwardMemory<kDim>));
    return launch(stream, shape, kernel, p);
  };
  cudaError_t error = run(backward_tile_kernel<kDim, false>, tokens * (p.heads / p.kv_heads));
  return error == cudaSuccess ? run(backward_tile_kernel<kDim, true>, tokens) : error;
}

}  // namespace

Status gated_general_backward(const GatedAttentionBackwardParams& params, float* products, Context& context) {
  BackwardParams p;
  p.dq = Rows(params.dq);
  p.dk = Rows(params.dk);
  p.dv = Rows(params.dv);
  p.d_out = Rows(params.d_out);
  p.out = Rows(params.out);
  p.q = Rows(params.q);
  p.keys = Rows(params.keys);
  p.values = Rows(params.values);
  p.d_gates = params.d_gates.as<float>();
  p.d_gate_stride = params.d_gates.stride[0];
  p.gates = params.gates.as<float>();
  p.gate_stride = params.gates.stride[0];
  p.log_sums = params.log_sum_exp.as<float>();
  p.log_sum_stride = params.log_sum_exp.stride[0];
  p.products = products;
  p.offsets = params.offsets.as<int32_t>();
  p.documents = static_cast<int>(params.offsets.shape[0]) - 1;
  p.heads = static_cast<int>(params.q.shape[1]);
  p.kv_heads = static_cast<int>(params.keys.shape[1]);
  p.dim = static_cast<int>(params.q.shape[2]);
  p.window = static_cast<int>(params.window);
  p.scale = params.scale;
  int64_t tokens = params.q.shape[0], rows = tokens * p.heads;
  LaunchShape shape;
  shape.grid = dim3(blocks_for(rows, kTileWarps));
  shape.block = dim3(kTileThreads);
  SPKV_RETURN_IF_ERROR(
      check(launch(context.stream(), shape, product_kernel, p, rows), "products of gated attention"));
  return check(p.dim <= 64    ? launch_backward<64>(p, tokens, context.stream())
               : p.dim <= 128 ? launch_backward<128>(p, tokens, context.stream())
                              : launch_backward<256>(p, tokens, context.stream()),
               "gated attention, backward");
}

}  // namespace cuda
}  // namespace spkv
