// Times prefill attention on prompts of real sizes. Build and run, from the root of the repository:
//
//   cmake -S . -B build-cuda && cmake --build build-cuda
//   build-cuda/prefill_bench > prefill.jsonl       one JSON line for each work, or for the one named behind; see also
//                                                  peer_prefill.py
//
// Work is counted from the pairs that are really visible, and each result is compared with float64 in a few
// rows.
#include <algorithm>
#include <string>

#include "cuda/prefill_attention.h"
#include "plain_context.h"

using namespace spkv_test;

namespace {

struct Work {
  std::string name;
  int cached, tokens;
  double density;
  int batch = 1, dim = 128, heads = 32, kv_heads = 8, window = 128;
};

constexpr int kRepeats = 11;
constexpr float kThreshold = 0.5f;

// Numbers in (-1, 1) that bf16 holds exactly.
std::vector<float> uniforms(size_t count, Random* random) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random->below(511) - 255) * 0x1p-8f;
  return values;
}

spkv::View view(float* data, int heads, int dim) {
  spkv::View view;
  view.data = data;
  view.rank = 3;
  view.shape[1] = heads;
  view.shape[2] = dim;
  view.stride[0] = int64_t{heads} * dim;
  view.stride[1] = dim;
  return view;
}

// The numbers of a step of one layer, on the host.
struct Numbers {
  std::vector<float> q, keys, values, utilities;

  Numbers(const Work& w, Random* random) {
    size_t rows = static_cast<size_t>(w.batch) * w.tokens;
    q = uniforms(rows * w.heads * w.dim, random);
    keys = uniforms(rows * w.kv_heads * w.dim, random);
    values = uniforms(rows * w.kv_heads * w.dim, random);
    for (size_t i = 0; i < rows * w.kv_heads; i++)
      utilities.push_back(random->uniform() < w.density ? 0.9f : 0.1f);
  }
};

// A cache whose lists have `density` of what is behind the window, in pages that lie in order.
std::unique_ptr<TestCache> make_cache(const Work& w, Random* random) {
  int ring = (w.window + 63) / 64, behind = std::max(0, w.cached - w.window);
  int kept = static_cast<int>(std::lround(w.density * behind)), lists = w.batch * w.kv_heads;
  Geometry g{1, w.kv_heads, w.dim, w.window, 0, w.batch, 0, 0};
  g.table_pages = ring + (kept + 63) / 64 + 1;
  g.capacity = lists * g.table_pages;
  auto cache = std::make_unique<TestCache>(g, w.batch, 1);
  std::vector<int32_t> table;
  for (int i = 0; i < g.capacity; i++) table.push_back(i);
  for (int i = g.capacity - 1; i > 0; i--) std::swap(table[i], table[random->below(i + 1)]);
  std::vector<bf16> page = random->normals(size_t{1} << 16);
  std::vector<uint8_t> pool(cache->pool.size());
  for (size_t at = 0; at < pool.size(); at += page.size() * 2)
    memcpy(pool.data() + at, page.data(), std::min(page.size() * 2, pool.size() - at));
  std::vector<uint32_t> keep(cache->keep.size());
  for (uint32_t& word : keep)
    for (int bit = 0; bit < 32; bit++) word |= uint32_t{random->uniform() < w.density} << bit;
  cache->pool.write(pool);
  cache->table.write(table);
  cache->kept.write(std::vector<int32_t>(lists, kept));
  cache->keep.write(keep);
  cache->length.write(std::vector<int32_t>(w.batch, w.cached));
  cache->threshold.write(std::vector<float>(w.batch, kThreshold));
  return cache;
}

// Visible (query, key) pairs of one query head each, over all heads. Of what is cached, the kept ones.
double visible_pairs(const Work& w, const Numbers& n, const TestCache& cache) {
  std::vector<uint32_t> keep = cache.keep.read();
  std::vector<int32_t> kept = cache.kept.read();
  double pairs = 0;
  int ring = std::min(w.cached, w.window);
  for (int list = 0; list < w.batch * w.kv_heads; list++) {
    int b = list / w.kv_heads, head = list % w.kv_heads;
    double behind = kept[list];
    for (int i = 0; i < w.tokens; i++) {
      int leaving = w.cached + i - w.window;  // position
      if (leaving >= 0 && leaving < w.cached) {
        int slot = leaving % w.window;
        behind += keep[static_cast<size_t>(list) * cache.state.keep_words + slot / 32] >> (slot % 32) & 1;
      } else if (leaving >= 0) {
        size_t row = static_cast<size_t>(b) * w.tokens + leaving - w.cached;
        behind += n.utilities[row * w.kv_heads + head] >= kThreshold;
      }
      pairs += behind + std::min(ring + i + 1, w.window);
    }
  }
  return pairs * (w.heads / w.kv_heads);
}

// The largest error over what rounding may cost, in a few rows. Of prompts only.
double compare(const Work& w, const Numbers& n, const std::vector<float>& out) {
  Random random(77);
  double worst = 0;
  for (int sample = 0; sample < 24; sample++) {
    int b = random.below(w.batch), i = sample == 0 ? w.tokens - 1 : random.below(w.tokens);
    int h = random.below(w.heads), head = h / (w.heads / w.kv_heads);
    std::vector<bf16> numbers;
    auto row_of = [&](const std::vector<float>& from, int token, int heads, int which) {
      size_t at = ((static_cast<size_t>(b) * w.tokens + token) * heads + which) * w.dim;
      for (int d = 0; d < w.dim; d++) numbers.push_back(__float2bfloat16(from[at + d]));
    };
    row_of(n.q, i, w.heads, h);
    for (int s = 0; s <= i; s++) {
      size_t row = static_cast<size_t>(b) * w.tokens + s;
      if (i - s >= w.window && n.utilities[row * w.kv_heads + head] < kThreshold) continue;
      row_of(n.keys, s, w.kv_heads, head);
      row_of(n.values, s, w.kv_heads, head);
    }
    std::vector<Pair> pairs;
    for (size_t at = w.dim; at < numbers.size(); at += 2 * w.dim)
      pairs.push_back({&numbers[at], &numbers[at + w.dim]});
    Reference expected =
        reference_attention(numbers.data(), pairs, w.dim, 1 / std::sqrt(static_cast<double>(w.dim)));
    size_t at = ((static_cast<size_t>(b) * w.tokens + i) * w.heads + h) * w.dim;
    for (int d = 0; d < w.dim; d++) {
      double error = std::abs(out[at + d] - expected.out[d]) / tolerance(expected, d);
      worst = error == error ? std::max(worst, error) : INFINITY;
    }
  }
  return worst;
}

void time_prefill(const Work& w) {
  Random random(1234);
  Numbers n(w, &random);
  std::unique_ptr<TestCache> cache = make_cache(w, &random);
  DeviceArray<float> q(n.q), keys(n.keys), values(n.values), utilities(n.utilities), out(n.q.size());
  std::vector<int32_t> slot_ids, starts;
  for (int b = 0; b <= w.batch; b++) {
    if (b < w.batch) slot_ids.push_back(b);
    starts.push_back(b * w.tokens);
  }
  DeviceArray<int32_t> slots(slot_ids), offsets(starts);
  PrefillAttentionParams p;
  p.out = view(out.get(), w.heads, w.dim);
  p.q = view(q.get(), w.heads, w.dim);
  p.keys = view(keys.get(), w.kv_heads, w.dim);
  p.values = view(values.get(), w.kv_heads, w.dim);
  p.utilities = view(utilities.get(), w.kv_heads, 1);
  p.cache = cache->state;
  p.cache.page_bytes = page_bytes(w.dim);
  p.slots = slots.get();
  p.offsets = offsets.get();
  p.batch = w.batch;
  p.tokens = int64_t{w.batch} * w.tokens;
  p.longest = w.tokens;
  p.heads = w.heads;
  p.scale = 1 / std::sqrt(static_cast<float>(w.dim));
  PlainContext context(false);
  cudaEvent_t from, to;
  CHECK_CUDA(cudaEventCreate(&from));
  CHECK_CUDA(cudaEventCreate(&to));
  std::vector<double> times;
  for (int i = 0; i < kRepeats + 2; i++) {
    out.fill(0xff);
    CHECK_CUDA(cudaEventRecord(from, context.stream()));
    if (!prefill_attention(p, context).ok()) exit(3);
    CHECK_CUDA(cudaEventRecord(to, context.stream()));
    CHECK_CUDA(cudaStreamSynchronize(context.stream()));
    float ms;
    CHECK_CUDA(cudaEventElapsedTime(&ms, from, to));
    if (i >= 2) times.push_back(ms);
  }
  CHECK_CUDA(cudaEventDestroy(from));
  CHECK_CUDA(cudaEventDestroy(to));
  std::sort(times.begin(), times.end());
  std::vector<float> result = out.read();
  bool complete = std::all_of(result.begin(), result.end(), [](float x) { return std::isfinite(x); });
  double flops = visible_pairs(w, n, *cache) * w.dim * 4, ms = times[times.size() / 2];
  double dense = 4.0 * w.dim * w.heads * w.batch * w.tokens * (w.cached + (w.tokens + 1) / 2.0);
  double error = w.cached == 0 ? compare(w, n, result) : -1;
  printf("{\"what\": \"prefill\", \"work\": \"%s\", \"batch\": %d, \"cached\": %d, \"tokens\": %d, \"dim\": %d, "
         "\"heads\": %d, \"kvHeads\": %d, \"window\": %d, \"density\": %.3f, \"ms\": %.4f, \"fastestMs\": %.4f, "
         "\"gigaflop\": %.2f, \"TFLOPs\": %.1f, \"denseTFLOPs\": %.1f, \"complete\": %s, "
         "\"errorOverTolerance\": %.3f}\n",
         w.name.c_str(), w.batch, w.cached, w.tokens, w.dim, w.heads, w.kv_heads, w.window, w.density, ms,
         times[0], flops / 1e9, flops / ms / 1e9, dense / ms / 1e9, complete ? "true" : "false", error);
  fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Work narrow{"prompt of 32k, D 64", 0, 32768, 0.25}, batch{"16 prompts of 512", 0, 512, 0.25};
  narrow.dim = 64;
  batch.batch = 16;
  for (const Work& work : {Work{"prompt of 32k", 0, 32768, 0.05}, Work{"prompt of 32k", 0, 32768, 0.25},
                           Work{"prompt of 32k", 0, 32768, 1}, Work{"prompt of 8k", 0, 8192, 0.25},
                           Work{"2k behind 30k", 30720, 2048, 0.25}, narrow, batch})
    if (argc < 2 || work.name == argv[1]) time_prefill(work);
  return 0;
}
