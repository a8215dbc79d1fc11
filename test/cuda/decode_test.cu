// Tests of the CUDA decode path against float64 on the CPU. Build and run, from the root of the repository:
//
//   cmake -S . -B build-cuda && cmake --build build-cuda
//   build-cuda/decode_test [quick | matrix | prefill | gated | fp8]   `quick` is small enough for
//                                                                     compute-sanitizer; the others run this part only
#include <functional>
#include <string>

#include "support.cuh"
#include "tests.h"

using namespace spkv_test;

namespace spkv_test {

int failures = 0, checks = 0;

void expect(bool good, const std::string& what) {
  checks++;
  if (good) return;
  if (++failures <= 20) printf("FAILED %s\n", what.c_str());
}

}  // namespace spkv_test

namespace {

struct Case {
  std::string name;
  Geometry geometry;
  int group = 4;
  int blocks = 0;
  std::vector<int> lengths;                            // T of every sequence
  std::function<int(int b, int head, int most)> kept;  // N of every list, at most `most`
  double q_scale = 1;
  bool dominant = false;  // the last kept pair outweighs all others
  bool uneven = false;    // numbers of a key or value differ by up to 2^17, the first being the largest
};

// A cache of one layer with the lists of a case, every byte that holds no pair being NaN.
struct Built {
  std::unique_ptr<TestCache> cache;
  std::vector<std::vector<bf16>> keys, values;  // of every list: ring slots, then kept pairs
  std::vector<int> kept;
  std::vector<uint8_t> edge;  // whether the pair that leaves the window next is kept
};

void make_uneven(std::vector<bf16>* rows, int dim, Random* random) {
  for (size_t i = 0; i < rows->size(); i++) {
    double size = i % dim == 0 ? 4 : std::exp2(-17 * random->uniform());
    (*rows)[i] = __float2bfloat16(static_cast<float>(__bfloat162float((*rows)[i]) * size));
  }
}

Built build(const Case& test, const std::vector<bf16>& q, Random* random) {
  const Geometry& g = test.geometry;
  Built built;
  built.cache = std::make_unique<TestCache>(g, g.sequences, test.blocks);
  const CacheState& state = built.cache->state;
  int bytes = page_bytes_of(g.dtype, g.dim), lists = g.sequences * g.kv_heads;
  std::vector<int32_t> table(static_cast<size_t>(lists) * g.table_pages, 0x7fffffff), kept(lists);
  std::vector<int32_t> ids(g.capacity);
  for (int i = 0; i < g.capacity; i++) ids[i] = i;
  for (int i = g.capacity - 1; i > 0; i--) std::swap(ids[i], ids[random->below(i + 1)]);
  std::vector<uint32_t> keep(static_cast<size_t>(lists) * state.keep_words);
  for (uint32_t& word : keep) word = static_cast<uint32_t>(random->next());
  std::vector<uint8_t> image(bytes);
  for (int list = 0; list < lists; list++) {
    int b = list / g.kv_heads, head = list % g.kv_heads, length = test.lengths[b];
    kept[list] = test.kept(b, head, std::max(0, length - g.window));
    int ring = std::min(length, state.ring_slots), rows = state.ring_slots + kept[list];
    built.keys.push_back(random->normals(static_cast<size_t>(rows) * g.dim));
    built.values.push_back(random->normals(static_cast<size_t>(rows) * g.dim));
    if (test.uneven) {
      make_uneven(&built.keys[list], g.dim, random);
      make_uneven(&built.values[list], g.dim, random);
    }
    if (test.dominant && kept[list] > 0)
      for (int d = 0; d < g.dim; d++)
        built.keys[list][static_cast<size_t>(rows - 1) * g.dim + d] =
            __float2bfloat16(3 * __bfloat162float(q[static_cast<size_t>(list) * test.group * g.dim + d]));
    round_rows(&built.keys[list], g.dtype, g.dim);
    round_rows(&built.values[list], g.dtype, g.dim);
    int pages = state.ring_pages + (kept[list] + 63) / 64;
    for (int i = 0; i < pages; i++) {
      if (i < state.ring_pages && i * kPageSlots >= ring) continue;
      int32_t id = ids.back();
      ids.pop_back();
      table[static_cast<size_t>(list) * g.table_pages + i] = id;
      std::fill(image.begin(), image.end(), 0xff);
      for (int slot = 0; slot < kPageSlots; slot++) {
        int row = i * kPageSlots + slot;
        bool there = i < state.ring_pages ? row < ring : row - state.ring_pages * kPageSlots < kept[list];
        if (i >= state.ring_pages) row += state.ring_slots - state.ring_pages * kPageSlots;
        if (there)
          put_pair(image.data(), g.dtype, g.dim, slot, &built.keys[list][static_cast<size_t>(row) * g.dim],
                   &built.values[list][static_cast<size_t>(row) * g.dim]);
      }
      CHECK_CUDA(cudaMemcpy(state.pool + static_cast<size_t>(id) * bytes, image.data(), bytes,
                            cudaMemcpyHostToDevice));
    }
    int edge = length >= g.window ? (length - g.window) % state.ring_slots : 0;
    built.edge.push_back(keep[static_cast<size_t>(list) * state.keep_words + edge / 32] >> (edge % 32) & 1);
  }
  built.cache->table.write(table);
  built.cache->kept.write(kept);
  built.cache->keep.write(keep);
  built.cache->length.write(std::vector<int32_t>(test.lengths.begin(), test.lengths.end()));
  built.kept = kept;
  return built;
}

std::vector<Pair> visible_pairs(const Case& test, const Built& built, int list, const bf16* key,
                                const bf16* value) {
  const Geometry& g = test.geometry;
  int length = test.lengths[list / g.kv_heads], slots = g.window + g.slack;
  std::vector<Pair> pairs = {{key, value}};
  auto add = [&](int row) {
    pairs.push_back({&built.keys[list][static_cast<size_t>(row) * g.dim],
                     &built.values[list][static_cast<size_t>(row) * g.dim]});
  };
  for (int p = std::max(0, length - g.window); p < length; p++)
    if (length - p < g.window || built.edge[list]) add(p % slots);
  for (int i = 0; i < built.kept[list]; i++) add(slots + i);
  return pairs;
}

// The plan against what it promises.
void check_plan(const Case& test, const TestCache& cache) {
  std::vector<ItemPlan> items = cache.items.read();
  std::vector<BlockPlan> blocks = cache.block_plans.read();
  int unit = 0;
  for (const ItemPlan& item : items) {
    int ring = (std::min(item.length, cache.state.ring_slots) + 63) / 64;
    expect(item.first_unit == unit && item.units == std::max(1, ring + (item.kept + 63) / 64),
           test.name + ": units of an item");
    unit += item.units;
  }
  int at = 0, most = (unit + test.blocks - 1) / test.blocks;
  for (const BlockPlan& block : blocks) {
    bool good = block.total == unit && (block.begin == at || block.begin == block.end) &&
                block.end - block.begin <= most;
    if (block.begin < block.end)
      good = good && items[block.item].first_unit <= block.begin &&
             block.begin < items[block.item].first_unit + items[block.item].units;
    expect(good, test.name + ": units of a block");
    at = std::max(at, block.end);
  }
  expect(at == unit, test.name + ": all units have a block");
}

void run_case(const Case& test, uint64_t seed) {
  const Geometry& g = test.geometry;
  Random random(seed);
  int heads = g.kv_heads * test.group;
  // New pairs of sequences lie further apart than they are long: there is a head more than is used.
  size_t q_stride = static_cast<size_t>(heads) * g.dim,
         kv_stride = static_cast<size_t>(g.kv_heads + 1) * g.dim;
  int64_t row_bytes = decode_row_bytes(g.dim, g.dtype);
  std::vector<bf16> q = random.normals(g.sequences * q_stride, test.q_scale);
  std::vector<bf16> keys = random.normals(g.sequences * kv_stride),
                    values = random.normals(g.sequences * kv_stride);
  DeviceArray<uint8_t> device_keys(pack_rows(keys, g.dtype, g.dim, row_bytes)),
      device_values(pack_rows(values, g.dtype, g.dim, row_bytes));
  round_rows(&keys, g.dtype, g.dim);
  round_rows(&values, g.dtype, g.dim);
  Built built = build(test, q, &random);
  TestCache& cache = *built.cache;
  std::vector<int32_t> slots(g.sequences);
  for (int i = 0; i < g.sequences; i++) slots[i] = i;
  DeviceArray<int32_t> device_slots(slots);
  DeviceArray<bf16> device_q(q);
  // Heads further apart than they are long, too: with a distance that is no multiple of 4, rows have every
  // alignment.
  int64_t out_head = g.dim + seed % 5, out_stride = heads * out_head;
  DeviceArray<float> out(g.sequences * static_cast<size_t>(out_stride));
  DeviceArray<float> log_sum(static_cast<size_t>(g.sequences) * heads);
  DecodeAttentionParams p;
  p.out = out.get();
  p.out_stride = out_stride;
  p.out_head_stride = out_head;
  p.log_sum = log_sum.get();
  p.q = device_q.get();
  p.keys = device_keys.get();
  p.values = device_values.get();
  p.q_stride = static_cast<int64_t>(q_stride);
  p.kv_stride = (g.kv_heads + 1) * row_bytes;
  p.cache = cache.state;
  p.plan = cache.plan;
  p.partials = cache.partials.get();
  p.arrivals = cache.arrivals.get();
  p.heads = heads;
  p.scale = 1 / std::sqrt(static_cast<float>(g.dim));
  auto run = [&] {
    out.fill(0xff);
    CHECK_CUDA(plan_step({cache.state, cache.plan, device_slots.get()}, nullptr));
    CHECK_CUDA(decode_attention(p, nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
    return out.read();
  };
  std::vector<float> result = run(), again = run();
  expect(memcmp(result.data(), again.data(), result.size() * 4) == 0, test.name + ": same bits again");
  check_plan(test, cache);
  std::vector<float> logs = log_sum.read();
  double worst = 0, worst_log = 0;
  for (int row = 0; row < g.sequences * heads; row++) {
    int b = row / heads, list = b * g.kv_heads + row % heads / test.group;
    size_t at = b * kv_stride + static_cast<size_t>(list % g.kv_heads) * g.dim;
    Reference expected =
        reference_attention(&q[static_cast<size_t>(row) * g.dim],
                            visible_pairs(test, built, list, &keys[at], &values[at]), g.dim, p.scale);
    for (int d = 0; d < g.dim; d++) {
      double error =
          std::abs(result[static_cast<size_t>(row) * static_cast<size_t>(out_head) + d] - expected.out[d]);
      worst = error == error ? std::max(worst, error / tolerance(expected, d)) : INFINITY;
    }
    double log_error = std::abs(logs[row] - expected.log_sum) / (1e-5 + 1e-5 * expected.largest);
    worst_log = log_error == log_error ? std::max(worst_log, log_error) : INFINITY;
  }
  expect(worst <= 1, test.name + ": out, error over tolerance " + std::to_string(worst));
  expect(worst_log <= 1, test.name + ": log sum, error over tolerance " + std::to_string(worst_log));
  if (g.sequences < 2) return;
  // A NaN in one sequence shows there, and nowhere else.
  q[0] = __float2bfloat16(NAN);
  device_q.write(q);
  std::vector<float> poisoned = run();
  bool shown = true;
  for (int d = 0; d < g.dim; d++) shown = shown && std::isnan(poisoned[d]);
  expect(shown, test.name + ": a NaN query gives NaN");
  expect(memcmp(&result[out_stride], &poisoned[out_stride], (result.size() - out_stride) * 4) == 0,
         test.name + ": a NaN stays in its sequence");
}

Case make(DType dtype, const std::string& name, int dim, int group, int kv_heads, int blocks, int window, int slack,
          const std::vector<int>& lengths, const std::function<int(int, int, int)>& kept) {
  Case test;
  test.name = std::string(spkv::dtype_name(dtype)) + ", " + name;
  test.geometry = {1, kv_heads, dim, window, slack, static_cast<int>(lengths.size()), 0, 0, dtype};
  int most = 0;
  for (int length : lengths) most = std::max(most, length);
  int ring_pages = (window + slack + 63) / 64;
  test.geometry.table_pages = ring_pages + most / 64 + 1;
  test.geometry.capacity = 8;
  for (size_t b = 0; b < lengths.size(); b++)
    for (int head = 0; head < kv_heads; head++)
      test.geometry.capacity +=
          ring_pages + (kept(static_cast<int>(b), head, std::max(0, lengths[b] - window)) + 63) / 64;
  test.group = group;
  test.blocks = blocks;
  test.lengths = lengths;
  test.kept = kept;
  return test;
}

void list_lengths(int sms, DType dtype) {
  const int edges[] = {0, 1, 63, 64, 65, 127, 128, 129, 1009, 2048};
  auto edge = [&](int b, int head, int most) { return std::min(most, edges[(b * 3 + head) % 10]); };
  auto all = [](int, int, int most) { return most; };
  auto none = [](int, int, int) { return 0; };
  auto skewed = [](int b, int head, int most) { return head == b % 8 ? most : 0; };
  for (int dim : {64, 128}) {
    for (int group : {1, 2, 3, 4, 7, 8, 12, 16}) {
      std::string name = "dim " + std::to_string(dim) + " group " + std::to_string(group);
      std::vector<int> lengths(10, 2300);
      run_case(make(dtype, name + " edges", dim, group, 3, sms, 128, 0, lengths, edge), 1);
      run_case(make(dtype, name + " skewed", dim, group, 8, sms, 128, 0, {3000, 130, 5}, skewed), 2);
    }
    run_case(make(dtype, "one list", dim, 4, 1, sms, 128, 0, {5000}, all), 3);
    run_case(make(dtype, "density 1", dim, 4, 2, sms, 128, 0, {1000, 700}, all), 4);
    run_case(make(dtype, "density 0", dim, 4, 2, sms, 128, 0, {1000, 700}, none), 5);
    run_case(make(dtype, "nothing at all", dim, 4, 2, sms, 128, 0, {0, 0, 0}, none), 6);
    run_case(make(dtype, "items of one page", dim, 4, 3, 1, 64, 0, std::vector<int>(40, 30), none), 13);
    run_case(make(dtype, "many items", dim, 4, 8, sms, 64, 0, std::vector<int>(40, 300), edge), 7);
  }
  Case dominant = make(dtype, "dominant", 128, 4, 2, sms, 128, 0, {2000, 900}, all);
  dominant.dominant = true;
  run_case(dominant, 8);
  Case uneven = make(dtype, "uneven numbers", 128, 4, 2, sms, 128, 0, {2000, 900}, all);
  uneven.uneven = true;
  run_case(uneven, 14);
  for (double scale : {0.0, 1e3}) {
    Case large = make(dtype, "scores of scale " + std::to_string(scale), 128, 4, 2, sms, 128, 0, {2000, 900}, all);
    large.q_scale = scale;
    run_case(large, 9);
  }
}

void rings(int sms, DType dtype) {
  auto some = [](int b, int head, int most) { return std::min(most, b * 17 + head * 64); };
  for (int window : {1, 8, 64, 100, 128, 200}) {
    for (int slack : {0, 5, 70}) {
      std::vector<int> lengths = {0, 1, 2, 63, 64, 65};
      for (int base : {window, window + slack, 2 * window, 2 * (window + slack)})
        for (int length : {base - 1, base, base + 1, base + 31}) lengths.push_back(length);
      run_case(make(dtype, "window " + std::to_string(window) + " slack " + std::to_string(slack), 64, 4, 2, sms,
                    window, slack, lengths, some),
               10);
    }
  }
}

void cuts(DType dtype) {
  auto some = [](int b, int head, int most) { return std::min(most, b * 100 + head * 64); };
  for (int blocks : {1, 2, 3, 5, 7, 16, 33, 57, 58, 59, 131, 132, 200})
    run_case(make(dtype, "blocks " + std::to_string(blocks), 128, 4, 3, blocks, 64, 0, {900, 64, 0, 700, 333}, some),
             11);
  // So many pages in a block that whoever uses them gets ahead of others as far as it can.
  auto all = [](int, int, int most) { return most; };
  for (int dim : {64, 128})
    for (int blocks : {1, 2, 5})
      run_case(make(dtype, "long lists, blocks " + std::to_string(blocks), dim, 4, 2, blocks, 128, 0, {9000, 7777}, all),
               15);
}

}  // namespace

int main(int argc, char** argv) {
  std::string part = argc > 1 ? argv[1] : "";
  bool quick = part == "quick";
  int sms = 0, capability = 0;
  CHECK_CUDA(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  CHECK_CUDA(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, 0));
  for (DType dtype : {DType::kBF16, DType::kFP8}) {
    bool all = part.empty() || (part == "fp8" && dtype == DType::kFP8);
    if (quick) {
      auto some = [](int b, int head, int most) { return std::min(most, b * 100 + head * 64); };
      for (int dim : {64, 128})
        for (int group : {4, 16})
          run_case(make(dtype, "quick", dim, group, 2, 7, 64, 5, {300, 64, 0, 200}, some), 12);
    } else if (all) {
      list_lengths(sms, dtype);
      rings(sms, dtype);
      cuts(dtype);
    }
    printf("lists: %d checks, %d failed\n", checks, failures);
    if (quick || all) steps_test(quick, dtype);
    if (quick || all || part == "prefill") prefill_test(quick, dtype);
  }
  if (capability == 9 && (part.empty() || part == "matrix")) matrix_test();
  if (quick || part.empty() || part == "gated") gated_test(quick);
  printf("decode_test: %d checks, %d failed\n", checks, failures);
  return failures > 0;
}
