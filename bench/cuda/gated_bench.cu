// Times gated attention, forward and backward, on training batches. Build and run, from the root of the
// repository:
//
//   cmake -S . -B build-cuda && cmake --build build-cuda
//   build-cuda/gated_bench [work] > gated.jsonl       one JSON line for each work; see also peer_gated.py
//
// Operations are counted as for dense causal attention, whatever the gates remove.
#include <algorithm>
#include <string>

#include "cuda/gated_hopper.h"
#include "plain_context.h"

using namespace spkv_test;

namespace {

enum class Gates { kAbsent, kSoft, kHard };

struct Work {
  std::string name;
  int batch, length, dim, heads, kv_heads;
  Gates gates;
  std::vector<double> density;  // by KV head, again and again; of hard gates
};

constexpr int kRepeats = 15;
constexpr int kWindow = 128;

struct Tensor {
  DeviceArray<bf16> memory;
  spkv::View view;

  Tensor(int64_t tokens, int64_t heads, int64_t dim, uint64_t seed)
      : memory(static_cast<size_t>(tokens * heads * dim)) {
    if (seed) {
      // A part of the numbers again and again: a row is not the one of another head or token.
      Random random(seed);
      std::vector<bf16> some = random.normals(1000003), all(memory.size());
      for (size_t i = 0; i < all.size(); i += some.size())
        std::copy_n(some.begin(), std::min(some.size(), all.size() - i),
                    all.begin() + static_cast<int64_t>(i));
      memory.write(all);
    }
    view.data = memory.get();
    view.dtype = spkv::DType::kBF16;
    view.rank = 3;
    const int64_t shape[3] = {tokens, heads, dim};
    for (int i = 0; i < 3; i++) view.shape[i] = shape[i];
    view.stride[0] = heads * dim;
    view.stride[1] = dim;
  }
};

template <typename Run>
double median_ms(const Run& run) {
  cudaEvent_t begin, end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < kRepeats + 2; i++) {
    CHECK_CUDA(cudaEventRecord(begin));
    run();
    CHECK_CUDA(cudaEventRecord(end));
    CHECK_CUDA(cudaEventSynchronize(end));
    float ms = 0;
    CHECK_CUDA(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return static_cast<double>(times[times.size() / 2]);
}

spkv::View floats(DeviceArray<float>* memory, int64_t tokens, int64_t heads) {
  *memory = DeviceArray<float>(static_cast<size_t>(tokens * heads));
  spkv::View view;
  view.data = memory->get();
  view.rank = 2;
  view.shape[0] = tokens;
  view.shape[1] = heads;
  view.stride[0] = heads;
  return view;
}

void run_work(const Work& w) {
  int64_t tokens = int64_t{w.batch} * w.length;
  Tensor q(tokens, w.heads, w.dim, 1), keys(tokens, w.kv_heads, w.dim, 2),
      values(tokens, w.kv_heads, w.dim, 3);
  Tensor out(tokens, w.heads, w.dim, 0), d_out(tokens, w.heads, w.dim, 4), dq(tokens, w.heads, w.dim, 0);
  Tensor dk(tokens, w.kv_heads, w.dim, 0), dv(tokens, w.kv_heads, w.dim, 0);
  DeviceArray<float> sums_memory, gates_memory, d_gates_memory;
  spkv::View sums = floats(&sums_memory, tokens, w.heads), gates = floats(&gates_memory, tokens, w.kv_heads);
  spkv::View d_gates = floats(&d_gates_memory, tokens, w.kv_heads);
  Random random(5);
  std::vector<float> gate(static_cast<size_t>(tokens * w.kv_heads));
  for (size_t i = 0; i < gate.size(); i++) {
    double u = random.uniform();
    size_t head = i % static_cast<size_t>(w.kv_heads);
    gate[i] = static_cast<float>(w.gates == Gates::kSoft                  ? std::log(u + 1e-6)
                                 : u < w.density[head % w.density.size()] ? 0.0
                                                                          : -INFINITY);
  }
  gates_memory.write(gate);
  std::vector<int32_t> offsets;
  for (int b = 0; b <= w.batch; b++) offsets.push_back(b * w.length);
  DeviceArray<int32_t> device_offsets(offsets);
  spkv::View offsets_view;
  offsets_view.data = device_offsets.get();
  offsets_view.dtype = spkv::DType::kI32;
  offsets_view.rank = 1;
  offsets_view.shape[0] = w.batch + 1;
  bool gated = w.gates != Gates::kAbsent;
  float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(w.dim)));
  spkv::GatedAttentionParams forward{out.view,     sums,        q.view,
                                     keys.view,    values.view, gated ? gates : spkv::View(),
                                     offsets_view, kWindow,     scale};
  spkv::GatedAttentionBackwardParams backward{
      dq.view,    dk.view,     dv.view,       gated ? d_gates : spkv::View(),
      d_out.view, out.view,    sums,          q.view,
      keys.view,  values.view, forward.gates, offsets_view,
      kWindow,    scale};
  PlainContext context(false);
  bool good = true;
  auto ahead = [&] { good = good && gated_hopper(forward, offsets.data(), context).ok(); };
  auto back = [&] { good = good && gated_hopper(backward, offsets.data(), context).ok(); };
  double forward_ms = median_ms(ahead), backward_ms = median_ms(back);
  double both_ms = median_ms([&] {
    ahead();
    back();
  });
  double operations = 4.0 * w.dim * w.heads * w.batch * (0.5 * w.length * (w.length + 1));
  printf(
      "{\"what\": \"gated\", \"work\": \"%s\", \"batch\": %d, \"tokens\": %d, \"dim\": %d, \"heads\": %d, "
      "\"kvHeads\": %d, \"forwardMs\": %.4f, \"backwardMs\": %.4f, \"ms\": %.4f, \"forwardTFLOPs\": %.1f, "
      "\"TFLOPs\": %.1f%s}\n",
      w.name.c_str(), w.batch, w.length, w.dim, w.heads, w.kv_heads, forward_ms, backward_ms, both_ms,
      operations / forward_ms / 1e9, 3.5 * operations / both_ms / 1e9, good ? "" : ", \"failed\": true");
  fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "";
  // The densities that the paper's method reached on the bundled model, and even ones.
  const std::vector<double> skewed = {0.85, 0.13, 0, 0, 0.44, 0, 0.13, 1};
  for (auto [batch, length, dim, heads, kv_heads] : {std::tuple<int, int, int, int, int>{4, 4096, 128, 32, 8},
                                                     {1, 16384, 128, 32, 8},
                                                     {4, 4096, 64, 32, 8},
                                                     {1, 16384, 64, 32, 8},
                                                     {32, 4096, 64, 4, 2}}) {
    for (const auto& [name, gates, density] :
         {std::tuple<const char*, Gates, std::vector<double>>{"dense", Gates::kAbsent, {1}},
          {"soft", Gates::kSoft, {1}},
          {"hard, density 0.5", Gates::kHard, {0.5}},
          {"hard, density 0.25", Gates::kHard, {0.25}},
          {"hard, density 0", Gates::kHard, {0}},
          {"hard, density of 0 to 1", Gates::kHard, skewed}}) {
      if (wanted.empty() || wanted == name)
        run_work({name, batch, length, dim, heads, kv_heads, gates, density});
    }
  }
  return 0;
}
