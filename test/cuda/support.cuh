// What the CUDA tests and benchmarks share: device arrays, random numbers, a cache to fill by hand, and the
// attention of one query group in float64, from the definition.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "cuda/cache_state.h"
#include "cuda/decode_attention.h"
#include "cuda/decode_insert.h"
#include "cuda/sequences.h"
#include "cuda/step_plan.h"
#include "pages.cuh"

#define CHECK_CUDA(call)                                                                         \
  do {                                                                                           \
    cudaError_t error_ = (call);                                                                 \
    if (error_ != cudaSuccess) {                                                                 \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      exit(2);                                                                                   \
    }                                                                                            \
  } while (0)

namespace spkv_test {

using namespace spkv::cuda;
using spkv::DType;
using bf16 = __nv_bfloat16;

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count = 0) : count_(count) {
    if (count > 0) CHECK_CUDA(cudaMalloc(&data_, count * sizeof(T)));
    if (count > 0) CHECK_CUDA(cudaMemset(data_, 0xff, count * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { write(values); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(DeviceArray&& other) noexcept { swap(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    swap(other);
    return *this;
  }

  T* get() const { return data_; }
  size_t size() const { return count_; }
  void write(const std::vector<T>& values) {
    CHECK_CUDA(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    CHECK_CUDA(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
  void fill(int byte) { CHECK_CUDA(cudaMemset(data_, byte, count_ * sizeof(T))); }

 private:
  void swap(DeviceArray& other) {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
  }
  T* data_ = nullptr;
  size_t count_ = 0;
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15ull;
    uint64_t z = (state_ ^ (state_ >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  int below(int n) { return static_cast<int>(next() % static_cast<uint64_t>(n)); }
  double normal() {
    return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform());
  }
  double gamma(double shape) {  // Marsaglia and Tsang; below 1 by the power trick
    if (shape < 1) return gamma(shape + 1) * std::pow(1 - uniform(), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
    while (true) {
      double x = normal(), v = std::pow(1 + c * x, 3);
      if (v > 0 && std::log(1 - uniform()) < x * x / 2 + d - d * v + d * std::log(v)) return d * v;
    }
  }
  double beta(double a, double b) {
    double x = gamma(a), y = gamma(b);
    return x / (x + y);
  }
  std::vector<bf16> normals(size_t count, double scale = 1) {
    std::vector<bf16> values(count);
    for (bf16& value : values) value = __float2bfloat16(static_cast<float>(normal() * scale));
    return values;
  }

 private:
  uint64_t state_;
};

constexpr int kNonFiniteSite = 1, kExhaustedSite = 2;

struct Geometry {
  int layers = 1, kv_heads = 1, dim = 128, window = 128, slack = 0, sequences = 1, table_pages = 64;
  int capacity = 1024;
  DType dtype = DType::kBF16;
};

// The arrays of a CacheState, and a plan for steps of up to `batch` sequences.
struct TestCache {
  CacheState state;
  StepPlan plan;
  DeviceArray<uint8_t> pool;
  DeviceArray<int32_t> table, kept, length, free_pages, free_count, needs, free_top, arrivals;
  DeviceArray<uint32_t> keep;
  DeviceArray<float> threshold, partials;
  DeviceArray<uint8_t> scales;  // of the new pairs of a step
  DeviceArray<int32_t> oldest, references, least_free;
  DeviceArray<PoolShortage> shortage;
  DeviceArray<Fault> fault;
  InsertFaults faults;
  DeviceArray<ItemPlan> items;
  DeviceArray<BlockPlan> block_plans;

  TestCache(const Geometry& g, int batch, int blocks) {
    size_t lists = static_cast<size_t>(g.layers) * g.sequences * g.kv_heads;
    state.layers = g.layers;
    state.kv_heads = g.kv_heads;
    state.head_dim = g.dim;
    state.window = g.window;
    state.ring_slots = g.window + g.slack;
    state.ring_pages = (state.ring_slots + kPageSlots - 1) / kPageSlots;
    state.keep_words = (state.ring_slots + 31) / 32;
    state.sequences = g.sequences;
    state.table_pages = g.table_pages;
    state.capacity_pages = g.capacity;
    pool = DeviceArray<uint8_t>(static_cast<size_t>(g.capacity) * page_bytes_of(g.dtype, g.dim));
    table = DeviceArray<int32_t>(lists * g.table_pages);
    kept = DeviceArray<int32_t>(lists);
    keep = DeviceArray<uint32_t>(lists * state.keep_words);
    length = DeviceArray<int32_t>(g.sequences);
    threshold = DeviceArray<float>(g.sequences);
    free_pages = DeviceArray<int32_t>(g.capacity);
    free_count = DeviceArray<int32_t>(1);
    oldest = DeviceArray<int32_t>(g.sequences);
    references = DeviceArray<int32_t>(g.capacity);
    least_free = DeviceArray<int32_t>(1);
    shortage = DeviceArray<PoolShortage>(1);
    fault = DeviceArray<Fault>(1);  // all bits set: none
    faults.fault = fault.get();
    faults.non_finite = kNonFiniteSite;
    faults.exhausted = kExhaustedSite;
    state.pool = pool.get();
    state.table = table.get();
    state.kept = kept.get();
    state.keep = keep.get();
    state.length = length.get();
    state.threshold = threshold.get();
    state.free_pages = free_pages.get();
    state.free_count = free_count.get();
    state.oldest = oldest.get();
    state.references = references.get();
    state.least_free = least_free.get();
    state.shortage = shortage.get();
    state.dtype = g.dtype;
    state.page_bytes = page_bytes_of(g.dtype, g.dim);
    size_t step_items = static_cast<size_t>(batch) * g.kv_heads;
    items = DeviceArray<ItemPlan>(g.layers * step_items);
    block_plans = DeviceArray<BlockPlan>(static_cast<size_t>(g.layers) * blocks);
    needs = DeviceArray<int32_t>(g.layers);
    free_top = DeviceArray<int32_t>(1);
    arrivals = DeviceArray<int32_t>(step_items);
    arrivals.fill(0);
    scales = DeviceArray<uint8_t>(2 * g.layers * step_items);
    partials = DeviceArray<float>(static_cast<size_t>(decode_partial_floats(g.dim, 16, blocks)));
    plan.batch = batch;
    plan.blocks = blocks;
    plan.items = items.get();
    plan.block_plans = block_plans.get();
    plan.needs = needs.get();
    plan.free_top = free_top.get();
    CHECK_CUDA(reset_cache(state, nullptr));
  }

  Fault raised() const { return fault.read()[0]; }
  void clear_fault() { fault.fill(0xff); }
  void begin(int slot, float limit, cudaStream_t stream) {
    NewSequence sequence;
    sequence.slot = slot;
    sequence.threshold = limit;
    sequence.pages = state.layers * state.kv_heads * state.ring_pages;
    CHECK_CUDA(create_sequence(state, sequence, stream));
  }
};

// The pairs of a step of one token per sequence, [L, B, G, D] and [L, B, G].
inline NewPairs step_pairs(const TestCache& cache, const Geometry& g, int batch, float* keys, float* values,
                           float* utilities) {
  auto view = [&](float* data, int64_t dim) {
    spkv::View view;
    view.data = data;
    view.rank = 4;
    const int64_t shape[4] = {g.layers, batch, g.kv_heads, dim};
    for (int i = 3; i >= 0; i--) {
      view.shape[i] = shape[i];
      view.stride[i] = i == 3 ? 1 : view.stride[i + 1] * shape[i + 1];
    }
    return view;
  };
  NewPairs pairs(view(keys, g.dim), view(values, g.dim), view(utilities, 1));
  pairs.scales = cache.scales.get();
  return pairs;
}

inline std::vector<float> widened(const std::vector<bf16>& values) {
  std::vector<float> wide;
  for (bf16 value : values) wide.push_back(__bfloat162float(value));
  return wide;
}

struct Pair {
  const bf16 *key, *value;
};

// out [D], the weighted mean of |value| (what rounding errors scale with), and the log of the denominator.
struct Reference {
  std::vector<double> out, magnitude;
  double log_sum = 0, largest = 0;
};

inline Reference reference_attention(const bf16* q, const std::vector<Pair>& pairs, int dim, double scale) {
  Reference result;
  result.out.assign(dim, 0);
  result.magnitude.assign(dim, 0);
  std::vector<double> query(dim), score(pairs.size());
  for (int d = 0; d < dim; d++) query[d] = __bfloat162float(q[d]);
  double top = -INFINITY, sum = 0;
  for (size_t i = 0; i < pairs.size(); i++) {
    double dot = 0;
    for (int d = 0; d < dim; d++) dot += query[d] * __bfloat162float(pairs[i].key[d]);
    score[i] = dot * scale;
    top = std::max(top, score[i]);
    result.largest = std::max(result.largest, std::abs(score[i]));
  }
  for (double s : score) sum += std::exp(s - top);
  for (size_t i = 0; i < pairs.size(); i++) {
    double weight = std::exp(score[i] - top) / sum;
    for (int d = 0; d < dim; d++) {
      double v = __bfloat162float(pairs[i].value[d]);
      result.out[d] += weight * v;
      result.magnitude[d] += weight * std::abs(v);
    }
  }
  result.log_sum = top + std::log(sum);
  return result;
}

// What rounding the weights to bf16 (2^-8 each) may cost, and f32 scores of this size.
inline double tolerance(const Reference& reference, int d) {
  return (0x1p-8 + reference.largest * 0x1p-20) * reference.magnitude[d] * 1.05 + 1e-7;
}

}  // namespace spkv_test
