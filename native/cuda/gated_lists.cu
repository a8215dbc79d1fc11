#include "cuda/gated_lists.h"

#include <cmath>

#include "cuda/common/launch.cuh"
#include "cuda/common/reduce.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kPerThread = 4;
constexpr int kMostCost = 4096;  // dearer items count as this

// The items of all documents, sorted by cost, by counting. One block.
__device__ void sort_items(const KeyLists& lists) {
  __shared__ int next[kMostCost];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  auto for_items = [&](auto act) {
    for (int b = warp; b < lists.documents; b += kThreads / 32) {
      int tokens = lists.offsets[b + 1] - lists.offsets[b];
      int count = tokens == 0 ? 0 : (tokens + lists.tile - 1) / lists.tile + lists.extra;
      for (int cost = 1 + lane; cost <= count; cost += 32) act(b, cost, kMostCost - min(cost, kMostCost));
    }
  };
  for (int i = threadIdx.x; i < kMostCost; i += kThreads) next[i] = 0;
  __syncthreads();
  for_items([&](int, int, int bucket) { atomicAdd(&next[bucket], 1); });
  __syncthreads();
  int mine[kMostCost / kThreads], sum = 0;
  for (int i = 0; i < kMostCost / kThreads; i++)
    sum += mine[i] = next[threadIdx.x * (kMostCost / kThreads) + i];
  int before = block_sum_before(sum);
  for (int i = 0; i < kMostCost / kThreads; i++) {
    next[threadIdx.x * (kMostCost / kThreads) + i] = before;
    before += mine[i];
  }
  __syncthreads();
  for_items([&](int b, int cost, int bucket) { lists.items[atomicAdd(&next[bucket], 1)] = {b, cost}; });
}

// Grid: a block for each (document, KV head), and one for the items.
__global__ void __launch_bounds__(kThreads)
    list_kernel(const __grid_constant__ KeyLists lists, const float* gates, int64_t gate_stride,
                float factor) {
  int list = blockIdx.x;
  if (list == lists.documents * lists.kv_heads) {
    sort_items(lists);
    return;
  }
  int b = list / lists.kv_heads, head = list % lists.kv_heads;
  int token = lists.offsets[b], tokens = lists.offsets[b + 1] - token;
  int64_t at = head * lists.rows + lists.first(token, b);
  int32_t *rank = lists.rank + at, *position = lists.position + at;
  float* gate = lists.gate + at;
  __shared__ int kept;
  if (threadIdx.x == 0) kept = 0;
  __syncthreads();
  for (int begin = 0; begin < tokens; begin += kThreads * kPerThread) {
    int first = begin + static_cast<int>(threadIdx.x) * kPerThread, count = 0;
    float mine[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
      int p = first + i;
      mine[i] = p >= tokens ? -INFINITY : gates ? gates[(token + p) * gate_stride + head] : 0.0f;
      count += mine[i] != -INFINITY;
    }
    int before = kept + block_sum_before(count);
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
      int p = first + i;
      if (p < tokens) rank[p] = before;
      if (mine[i] == -INFINITY) continue;
      position[before] = p;
      gate[before++] = mine[i] * factor;
    }
    __syncthreads();  // everybody knows `kept`
    if (threadIdx.x == kThreads - 1) kept = before;
    __syncthreads();
  }
  int behind = KeyLists::filled(kept), dropped = tokens - kept;
  if (threadIdx.x == 0) {
    rank[tokens] = kept;
    lists.kept[head * lists.documents + b] = kept;
  }
  for (int i = kept + threadIdx.x; i < behind; i += kThreads) {
    position[i] = kNowhere;
    gate[i] = 0;
  }
  __syncthreads();
  for (int p = threadIdx.x; p < tokens && dropped > 0; p += kThreads) {
    if (rank[p + 1] != rank[p]) continue;
    position[behind + p - rank[p]] = p;
    gate[behind + p - rank[p]] = -INFINITY;
  }
  // A walk of dropped keys may begin anywhere, so its last tile ends in the one after.
  for (int i = dropped + threadIdx.x; i < KeyLists::filled(dropped) + kKeyTile; i += kThreads) {
    position[behind + i] = kNowhere;
    gate[behind + i] = 0;
  }
}

struct Bf16Rows {
  uint16_t* data;
  int64_t token_stride, head_stride;

  explicit Bf16Rows(const View& view)
      : data(view.as<uint16_t>()), token_stride(view.stride[0]), head_stride(view.stride[1]) {}
  __device__ uint4* chunk(int64_t token, int head, int i) const {
    return reinterpret_cast<uint4*>(data + token * token_stride + head * head_stride) + i;
  }
};

struct SortParams {
  KeyLists lists;
  Bf16Rows sorted_keys, sorted_values, keys, values;
  int chunks;  // of 16 bytes in a row
};

constexpr int kSortThreads = 256;

// Grid: items, KV heads. An item is `tile` tokens in their own order, at least kKeyTile.
__global__ void __launch_bounds__(kSortThreads) sort_kernel(const __grid_constant__ SortParams p) {
  const KeyLists& lists = p.lists;
  GatedItem item = lists.items[blockIdx.x];
  int head = blockIdx.y, token = lists.offsets[item.document];
  int tokens = lists.offsets[item.document + 1] - token;
  int kept = lists.kept[head * lists.documents + item.document];
  // The last tile of the document before ends in the first rows of this one: they must be numbers, too.
  if (kept == tokens && item.cost > 1) return;
  const int32_t* rank = lists.rank + head * lists.rows + lists.first(token, item.document);
  int begin = (item.cost - 1) * lists.tile, end = min(begin + lists.tile, tokens);
  for (int i = begin * p.chunks + static_cast<int>(threadIdx.x); i < end * p.chunks; i += kSortThreads) {
    int from = i / p.chunks, c = i % p.chunks, before = rank[from];
    int to = rank[from + 1] > before ? before : kept + from - before;
    *p.sorted_keys.chunk(token + to, head, c) = *p.keys.chunk(token + from, head, c);
    *p.sorted_values.chunk(token + to, head, c) = *p.values.chunk(token + from, head, c);
  }
}

}  // namespace

void KeyLists::measure(const int32_t* host_offsets, int tile_rows, int extra_items) {
  tile = tile_rows;
  extra = extra_items;
  item_count = 0;
  for (int b = 0; b < documents; b++) {
    int tokens = host_offsets[b + 1] - host_offsets[b];
    if (tokens > 0) item_count += (tokens + tile - 1) / tile + extra;
  }
  rows = first(host_offsets[documents], documents);
}

void KeyLists::lay_out(uint8_t* memory) {
  auto take = [&](int64_t bytes) {
    uint8_t* part = memory;
    memory += (bytes + 15) / 16 * 16;
    return part;
  };
  items = reinterpret_cast<GatedItem*>(take(item_count * static_cast<int64_t>(sizeof(GatedItem))));
  kept = reinterpret_cast<int32_t*>(take(int64_t{kv_heads} * documents * 4));
  rank = reinterpret_cast<int32_t*>(take(kv_heads * rows * 4));
  position = reinterpret_cast<int32_t*>(take(kv_heads * rows * 4));
  gate = reinterpret_cast<float*>(take(kv_heads * rows * 4));
}

cudaError_t make_key_lists(const KeyLists& lists, const View& gates, float factor, cudaStream_t stream) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(lists.documents * lists.kv_heads + 1));
  shape.block = dim3(kThreads);
  return launch(stream, shape, list_kernel, lists, static_cast<const float*>(gates.as<float>()),
                gates.stride[0], factor);
}

cudaError_t sort_rows(const KeyLists& lists, const View& sorted_keys, const View& sorted_values,
                      const View& keys, const View& values, cudaStream_t stream) {
  SortParams p = {lists,          Bf16Rows(sorted_keys), Bf16Rows(sorted_values),
                  Bf16Rows(keys), Bf16Rows(values),      static_cast<int>(keys.shape[2] / 8)};
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(lists.item_count), static_cast<unsigned>(lists.kv_heads));
  shape.block = dim3(kSortThreads);
  return launch(stream, shape, sort_kernel, p);
}

}  // namespace cuda
}  // namespace spkv
