// Times the CUDA decode path on lists of real sizes. Build and run, from the root of the repository:
//
//   cmake -S . -B build-cuda && cmake --build build-cuda
//   build-cuda/decode_bench OUTPUT_FOLDER [PART]   writes decode.json, and lengths.json for peer_decode.py; only
//                                                  works with PART in their names
//
// Every work has several layers with pages of their own, more than the L2 cache holds, and all of them are
// launched in turn, as a graph. Bytes are those of the pairs that the lists really have.
#include <algorithm>
#include <functional>
#include <string>

#include "cuda/common/ptx.cuh"
#include "support.cuh"

using namespace spkv_test;

namespace {

struct Work {
  std::string name;
  int batch, length, layers;
  int dim = 128, heads = 32, kv_heads = 8, window = 128;
  std::function<double(Random*, int head)> density;
  DType dtype = DType::kBF16;
};

FILE* results = nullptr;
double read_limit = 0;

uint32_t __host__ __device__ hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

// Numbers in (-1, 1).
__global__ void fill(uint32_t* data, size_t words) {
  for (size_t i = blockIdx.x * size_t{256} + threadIdx.x; i < words; i += gridDim.x * size_t{256}) {
    uint32_t bits = hash(static_cast<uint32_t>(i) * 2654435761u + static_cast<uint32_t>(i >> 32));
    float low = static_cast<float>(static_cast<int16_t>(bits)) * 0x1p-15f;
    float high = static_cast<float>(static_cast<int16_t>(bits >> 16)) * 0x1p-15f;
    data[i] = pack_bf16(low, high);
  }
}

// Pages of fp8 numbers below 2 with scales of 1.
__global__ void fill_fp8(uint8_t* pool, size_t bytes, int page_bytes, int scales) {
  for (size_t i = blockIdx.x * size_t{256} + threadIdx.x; i < bytes; i += gridDim.x * size_t{256}) {
    bool scale = static_cast<int>(i % page_bytes) >= scales;
    pool[i] = scale ? 127 : static_cast<uint8_t>(hash(static_cast<uint32_t>(i)) & 0xbf);
  }
}

__global__ void reduce(const uint4* data, size_t count, uint32_t* out) {
  uint32_t sum = 0;
  size_t stride = size_t{gridDim.x} * blockDim.x, i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 7 * stride < count; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = __ldcs(data + i + j * stride);
#pragma unroll
    for (int j = 0; j < 8; j++) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 12345) *out = sum;
}

// What the copy engine gives: the pages of a block through a ring of stages, and nothing else.
template <int kStages>
__global__ void __launch_bounds__(64) copy_ring(const uint8_t* pool, const int32_t* pages, int count) {
  extern __shared__ __align__(1024) uint8_t stages[];
  __shared__ uint64_t full[kStages], empty[kStages];
  constexpr int kBytes = page_bytes(128);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; i++) barrier_init(shared_address(full + i), 1);
    for (int i = 0; i < kStages; i++) barrier_init(shared_address(empty + i), 1);
    barrier_init_fence();
  }
  __syncthreads();
  int64_t begin = int64_t{blockIdx.x} * count / gridDim.x, end = int64_t{blockIdx.x + 1} * count / gridDim.x;
  uint64_t policy = evict_first_policy();
  for (int64_t i = begin; i < end; i++) {
    int stage = static_cast<int>((i - begin) % kStages), phase = static_cast<int>((i - begin) / kStages % 2);
    if (threadIdx.x == 0) {
      barrier_wait(shared_address(empty + stage), phase ^ 1);
      barrier_arrive_expect(shared_address(full + stage), kBytes);
      bulk_copy(shared_address(stages) + stage * kBytes, pool + int64_t{pages[i]} * kBytes, kBytes,
                shared_address(full + stage), policy);
    } else if (threadIdx.x == 32) {
      barrier_wait(shared_address(full + stage), phase);
      barrier_arrive(shared_address(empty + stage));
    }
  }
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Microseconds of one replay of what `enqueue` captures.
double time_graph(const std::function<void(cudaStream_t)>& enqueue, int repeats = 30) {
  cudaStream_t stream;
  CHECK_CUDA(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK_CUDA(cudaDeviceSynchronize());
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue(stream);
  CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t from, to;
  CHECK_CUDA(cudaEventCreate(&from));
  CHECK_CUDA(cudaEventCreate(&to));
  std::vector<double> times;
  for (int i = 0; i < repeats + 3; i++) {
    CHECK_CUDA(cudaEventRecord(from, stream));
    CHECK_CUDA(cudaGraphLaunch(exec, stream));
    CHECK_CUDA(cudaEventRecord(to, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    float ms;
    CHECK_CUDA(cudaEventElapsedTime(&ms, from, to));
    if (i >= 3) times.push_back(ms * 1e3);
  }
  CHECK_CUDA(cudaGraphExecDestroy(exec));
  CHECK_CUDA(cudaGraphDestroy(graph));
  CHECK_CUDA(cudaStreamDestroy(stream));
  return median(times);
}

// A cache with lists of drawn lengths in pages in random order, full of random numbers.
struct Lists {
  Geometry geometry;
  std::unique_ptr<TestCache> cache;
  std::vector<int32_t> kept;
  DeviceArray<int32_t> slots;
  double bytes = 0;  // of one layer
  double density = 0;
  int free_pages = 0;

  Lists(const Work& work, int blocks, int spare_pages) {
    Random random(1234);
    Geometry g{work.layers, work.kv_heads, work.dim, work.window, 0, work.batch, 0, 0, work.dtype};
    int ring = (work.window + 63) / 64, lists = work.layers * work.batch * work.kv_heads;
    int64_t tokens = 0, pages = 0;
    for (int i = 0; i < lists; i++) {
      double density = work.density(&random, i % work.kv_heads);
      kept.push_back(static_cast<int>(std::lround(density * (work.length - work.window))));
      tokens += kept.back();
      pages += ring + (kept.back() + 63) / 64;
    }
    density = static_cast<double>(tokens) / lists / (work.length - work.window);
    bool fp8 = work.dtype == DType::kFP8;
    int pair_bytes = fp8 ? 2 * (work.dim + 1) : 4 * work.dim;
    bytes = (tokens + static_cast<double>(lists) * work.window) * pair_bytes / work.layers;
    g.table_pages = ring + work.length / 64 + 4;
    g.capacity = static_cast<int>(pages) + spare_pages;
    geometry = g;
    cache = std::make_unique<TestCache>(g, work.batch, blocks);
    if (fp8) {
      fill_fp8<<<1024, 256>>>(cache->pool.get(), cache->pool.size(), page_bytes_of(work.dtype, work.dim),
                              fp8_scales_offset(work.dim));
    } else {
      fill<<<1024, 256>>>(reinterpret_cast<uint32_t*>(cache->pool.get()), cache->pool.size() / 4);
    }
    std::vector<int32_t> ids(g.capacity), table(static_cast<size_t>(lists) * g.table_pages), slot_ids;
    for (int i = 0; i < g.capacity; i++) ids[i] = i;
    for (int i = g.capacity - 1; i > 0; i--) std::swap(ids[i], ids[random.below(i + 1)]);
    for (int i = 0; i < lists; i++)
      for (int j = 0; j < ring + (kept[i] + 63) / 64; j++) {
        table[static_cast<size_t>(i) * g.table_pages + j] = ids.back();
        ids.pop_back();
      }
    free_pages = static_cast<int>(ids.size());
    std::vector<uint32_t> keep(static_cast<size_t>(lists) * cache->state.keep_words);
    for (uint32_t& word : keep)
      for (int bit = 0; bit < 32; bit++) word |= uint32_t{random.uniform() < 0.25} << bit;
    for (int i = 0; i < work.batch; i++) slot_ids.push_back(i);
    slots = DeviceArray<int32_t>(slot_ids);
    cache->table.write(table);
    cache->kept.write(kept);
    cache->keep.write(keep);
    cache->length.write(std::vector<int32_t>(work.batch, work.length));
    cache->oldest.write(std::vector<int32_t>(work.batch, work.length - work.window));
    cache->threshold.write(std::vector<float>(work.batch, 0.5f));
    ids.resize(g.capacity);
    cache->free_pages.write(ids);
    cache->free_count.write({free_pages});
    CHECK_CUDA(cudaDeviceSynchronize());
  }
};

// Returns the lengths of the first layer, for the peer.
std::string time_decode(const Work& work, int blocks) {
  Lists lists(work, blocks, 0);
  TestCache& cache = *lists.cache;
  Random random(99);
  size_t q_layer = static_cast<size_t>(work.batch) * work.heads * work.dim;
  int64_t row_bytes = decode_row_bytes(work.dim, work.dtype);
  size_t kv_layer = static_cast<size_t>(work.batch) * work.kv_heads * static_cast<size_t>(row_bytes);
  DeviceArray<bf16> q(random.normals(q_layer * work.layers));
  DeviceArray<float> out(q_layer * work.layers);
  std::vector<bf16> drawn =
      random.normals(static_cast<size_t>(work.layers) * work.batch * work.kv_heads * work.dim);
  std::vector<uint8_t> pairs = pack_rows(drawn, work.dtype, work.dim, row_bytes);
  DeviceArray<uint8_t> keys(pairs), values(pairs);
  auto attend = [&](cudaStream_t stream, bool overlap) {
    for (int layer = 0; layer < work.layers; layer++) {
      DecodeAttentionParams p;
      p.out = out.get() + layer * q_layer;
      p.q = q.get() + layer * q_layer;
      p.keys = keys.get() + layer * kv_layer;
      p.values = values.get() + layer * kv_layer;
      p.q_stride = p.out_stride = static_cast<int64_t>(work.heads) * work.dim;
      p.out_head_stride = work.dim;
      p.kv_stride = work.kv_heads * row_bytes;
      p.cache = cache.state;
      p.plan = cache.plan;
      p.partials = cache.partials.get();
      p.arrivals = cache.arrivals.get();
      p.layer = layer;
      p.heads = work.heads;
      p.scale = 1 / std::sqrt(static_cast<float>(work.dim));
      p.overlap_previous = overlap && layer > 0;
      CHECK_CUDA(decode_attention(p, stream));
    }
  };
  CHECK_CUDA(plan_step({cache.state, cache.plan, lists.slots.get()}, nullptr));
  double apart = time_graph([&](cudaStream_t s) { attend(s, false); }) / work.layers;
  double overlapping = time_graph([&](cudaStream_t s) { attend(s, true); }) / work.layers;
  double again = time_graph([&](cudaStream_t s) { attend(s, false); }) / work.layers;
  double rate = lists.bytes / apart / 1e3, overlap_rate = lists.bytes / overlapping / 1e3;
  fprintf(results,
          ",\n {\"what\": \"decode\", \"work\": \"%s\", \"batch\": %d, \"length\": %d, \"dim\": %d, "
          "\"heads\": %d, "
          "\"kvHeads\": %d, \"layers\": %d, \"dtype\": \"%s\", \"density\": %.4f, \"megabytes\": %.2f, \"us\": %.2f, "
          "\"usAgain\": %.2f, \"usOverlapped\": %.2f, \"GBps\": %.1f, \"ofReadLimit\": %.4f, "
          "\"ofReadLimitOverlapped\": %.4f}",
          work.name.c_str(), work.batch, work.length, work.dim, work.heads, work.kv_heads, work.layers,
          spkv::dtype_name(work.dtype), lists.density, lists.bytes / 1e6, apart, again, overlapping, rate, rate / read_limit,
          overlap_rate / read_limit);
  printf(
      "%-28s density %.3f %8.1f MB %8.1f us (again %8.1f) %7.1f GB/s = %.3f of the limit; overlapped %8.1f "
      "us = %.3f\n",
      work.name.c_str(), lists.density, lists.bytes / 1e6, apart, again, rate, rate / read_limit, overlapping,
      overlap_rate / read_limit);
  fflush(stdout);
  std::string lengths =
      "\"" + work.name + "\": {\"T\": " + std::to_string(work.length) +
      ", \"heads\": " + std::to_string(work.heads) + ", \"kvHeads\": " + std::to_string(work.kv_heads) +
      ", \"dim\": " + std::to_string(work.dim) + ", \"batch\": " + std::to_string(work.batch) +
      ", \"us\": " + std::to_string(apart) + ", \"GBps\": " + std::to_string(rate) + ", \"lengths\": [";
  for (int i = 0; i < work.batch * work.kv_heads; i++)
    lengths += (i > 0 ? "," : "") + std::to_string(work.window + lists.kept[i]);
  return lengths + "]}";
}

void time_insert(const Work& work, int blocks) {
  Lists lists(work, blocks, 200 * work.layers * work.batch * work.kv_heads / 64);
  TestCache& cache = *lists.cache;
  Random random(5);
  size_t rows = static_cast<size_t>(work.layers) * work.batch * work.kv_heads;
  DeviceArray<float> keys(widened(random.normals(rows * work.dim)));
  DeviceArray<float> values(widened(random.normals(rows * work.dim)));
  std::vector<float> drawn(rows);
  for (float& u : drawn) u = random.uniform() < 0.25 ? 0.9f : 0.1f;
  DeviceArray<float> utilities(drawn);
  NewPairs pairs = step_pairs(cache, lists.geometry, work.batch, keys.get(), values.get(), utilities.get());
  DecodeInsertParams insert{cache.state, cache.plan, pairs, cache.faults};
  auto plan = [&](cudaStream_t s) { CHECK_CUDA(plan_step({cache.state, cache.plan, lists.slots.get()}, s)); };
  auto both = [&](cudaStream_t s) {
    plan(s);
    CHECK_CUDA(check_pairs(pairs, work.dtype, cache.faults, s));
    CHECK_CUDA(decode_insert(insert, s));
  };
  double plan_us = time_graph(plan), one = time_graph(both, 100);
  // Eight steps in one graph: what a step costs without the graph's own start.
  double eight = time_graph(
                     [&](cudaStream_t s) {
                       for (int i = 0; i < 8; i++) both(s);
                     },
                     9) /
                 8;
  bool good = cache.raised() == kNoFault && cache.length.read()[0] == work.length + 103 + 8 * 12;
  fprintf(results,
          ",\n {\"what\": \"insert\", \"work\": \"%s\", \"lists\": %zu, \"planUs\": %.2f, "
          "\"planAndInsertUs\": %.2f, "
          "\"planAndInsertOfEightUs\": %.2f, \"good\": %s}",
          work.name.c_str(), rows, plan_us, one, eight, good ? "true" : "false");
  printf("%-28s plan %.2f us, plan + insert %.2f us, of eight in a graph %.2f us each%s\n", work.name.c_str(),
         plan_us, one, eight, good ? "" : "  WRONG STATE");
}

void time_limits(int sms) {
  constexpr size_t kBytes = size_t{6} << 30;
  constexpr int kPage = page_bytes(128), kCount = 20000;
  DeviceArray<uint32_t> data(kBytes / 4), out(1);
  fill<<<1024, 256>>>(data.get(), data.size());
  for (int blocks : {2, 4, 8, 16}) {
    double us = time_graph(
        [&](cudaStream_t s) {
          reduce<<<sms * blocks, 256, 0, s>>>(reinterpret_cast<const uint4*>(data.get()), kBytes / 16,
                                              out.get());
        },
        10);
    read_limit = std::max(read_limit, kBytes / us / 1e3);
  }
  std::vector<int32_t> pages(kBytes / kPage);
  for (size_t i = 0; i < pages.size(); i++) pages[i] = static_cast<int32_t>(i);
  Random random(3);
  for (size_t i = pages.size() - 1; i > 0; i--)
    std::swap(pages[i], pages[random.below(static_cast<int>(i) + 1)]);
  DeviceArray<int32_t> order(pages);
  CHECK_CUDA(cudaFuncSetAttribute(copy_ring<6>, cudaFuncAttributeMaxDynamicSharedMemorySize, 6 * kPage));
  const uint8_t* pool = reinterpret_cast<const uint8_t*>(data.get());
  double ring = 0;
  std::string sizes;
  for (int count : {kCount * 8, kCount, kCount / 4}) {
    double us = time_graph(
        [&](cudaStream_t s) { copy_ring<6><<<sms, 64, 6 * kPage, s>>>(pool, order.get(), count); });
    double rate = static_cast<double>(count) * kPage / us / 1e3;
    ring = std::max(ring, rate);
    printf("copy ring, %6d pages: %8.1f us, %.1f GB/s\n", count, us, rate);
  }
  fprintf(results, " {\"what\": \"limits\", \"readGBps\": %.1f, \"copyRingGBps\": %.1f}", read_limit, ring);
  printf("plain reduction: %.1f GB/s; copy ring: %.1f GB/s\n", read_limit, ring);
  fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder = argc > 1 ? argv[1] : ".", part = argc > 2 ? argv[2] : "";
  cudaDeviceProp device;
  CHECK_CUDA(cudaGetDeviceProperties(&device, 0));
  results = fopen((folder + "/decode.json").c_str(), "w");
  FILE* lengths = fopen((folder + "/lengths.json").c_str(), "w");
  if (!results || !lengths) return 3;
  int sms = device.multiProcessorCount;
  fprintf(results,
          "{\"device\": \"%s\", \"sms\": %d, \"command\": \"bench/cuda/decode_bench.cu\", \"results\": [\n",
          device.name, sms);
  time_limits(sms);
  auto skewed = [](Random* random, int) { return random->beta(0.6, 1.8); };
  auto dense = [](Random*, int) { return 1.0; };
  auto one_full = [](Random*, int head) { return head == 3 ? 1.0 : 0.0; };
  std::vector<Work> works = {
      {"16 x 32k skewed", 16, 32768, 8},         {"16 x 8k skewed", 16, 8192, 32},
      {"64 x 8k skewed", 64, 8192, 8},           {"16 x 128k skewed", 16, 131072, 2},
      {"16 x 32k one head full", 16, 32768, 16}, {"16 x 32k dense", 16, 32768, 2},
      {"1 x 32k skewed", 1, 32768, 32},          {"1 x 128k skewed", 1, 131072, 16},
      {"16 x 32k skewed D64", 16, 32768, 8},     {"16 x 32k skewed group 16", 16, 32768, 8}};
  for (Work& work : works) work.density = skewed;
  works[4].density = one_full;
  works[5].density = dense;
  works[8].dim = 64;
  works[9].heads = 128;
  for (size_t i : {0, 1, 3, 4, 8}) {
    Work half = works[i];
    half.name += " fp8";
    half.dtype = DType::kFP8;
    works.push_back(half);
  }
  const char* separator = "{";
  for (const Work& work : works) {
    if (work.name.find(part) == std::string::npos) continue;
    std::string lists = time_decode(work, sms);
    if (work.dtype != DType::kBF16) continue;  // its peer would read bf16
    fprintf(lengths, "%s%s", separator, lists.c_str());
    separator = ",\n";
  }
  fprintf(lengths, "}\n");
  for (DType dtype : {DType::kBF16, DType::kFP8}) {
    Work insert{dtype == DType::kFP8 ? "insert 32 x 16 x 8 fp8" : "insert 32 x 16 x 8", 16, 2048, 32};
    insert.dtype = dtype;
    insert.density = skewed;
    if (part.empty() || dtype == DType::kFP8) time_insert(insert, sms);
  }
  fprintf(results, "\n]}\n");
  fclose(results);
  fclose(lengths);
  return 0;
}
