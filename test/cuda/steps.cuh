// A decode step captured as a graph, and the numbers that go through it.
#pragma once

#include <string>
#include <vector>

#include "support.cuh"

namespace spkv_test {

struct Setup {
  std::string name;
  Geometry geometry;
  int group = 4;
  int steps = 0;
  double density = 0.5;
  std::vector<int32_t> slots;
  int compare_every = 1;
};

// Everything that one sequence has seen, as the cache holds it, [T][L * G * D] and [T][L * G].
struct History {
  std::vector<std::vector<bf16>> keys, values;
  std::vector<std::vector<float>> utilities;
};

class Engine {
 public:
  explicit Engine(const Setup& setup)
      : setup_(setup),
        g_(setup.geometry),
        batch_(static_cast<int>(setup.slots.size())),
        heads_(g_.kv_heads * setup.group),
        cache_(g_, batch_, 19),
        slots_(setup.slots),
        q_(size(heads_)),
        row_bytes_(decode_row_bytes(g_.dim, g_.dtype)),
        keys_(size(g_.kv_heads) / g_.dim * row_bytes_),
        values_(size(g_.kv_heads) / g_.dim * row_bytes_),
        key_floats_(size(g_.kv_heads)),
        value_floats_(size(g_.kv_heads)),
        out_(size(heads_)),
        utilities_(static_cast<size_t>(g_.layers) * batch_ * g_.kv_heads) {
    CHECK_CUDA(cudaStreamCreate(&stream_));
    CHECK_CUDA(cudaStreamSynchronize(nullptr));
  }
  ~Engine() {
    if (graph_) cudaGraphExecDestroy(graph_);
    cudaStreamDestroy(stream_);
  }

  TestCache& cache() { return cache_; }
  cudaStream_t stream() const { return stream_; }
  size_t size(int heads) const { return static_cast<size_t>(g_.layers) * batch_ * heads * g_.dim; }

  void capture() {
    cudaGraph_t graph;
    CHECK_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    CHECK_CUDA(plan_step({cache_.state, cache_.plan, slots_.get()}, stream_));
    for (int layer = 0; layer < g_.layers; layer++) {
      DecodeAttentionParams p;
      size_t q_layer = size(heads_) / g_.layers, kv_layer = keys_.size() / g_.layers;
      p.out = out_.get() + layer * q_layer;
      p.q = q_.get() + layer * q_layer;
      p.keys = keys_.get() + layer * kv_layer;
      p.values = values_.get() + layer * kv_layer;
      p.out_stride = static_cast<int64_t>(heads_) * g_.dim;
      p.out_head_stride = g_.dim;
      p.q_stride = static_cast<int64_t>(heads_) * g_.dim;
      p.kv_stride = g_.kv_heads * row_bytes_;
      p.cache = cache_.state;
      p.plan = cache_.plan;
      p.partials = cache_.partials.get();
      p.arrivals = cache_.arrivals.get();
      p.layer = layer;
      p.heads = heads_;
      p.scale = 1 / std::sqrt(static_cast<float>(g_.dim));
      p.overlap_previous = layer > 0;
      CHECK_CUDA(decode_attention(p, stream_));
    }
    NewPairs pairs = step_pairs(cache_, g_, batch_, key_floats_.get(), value_floats_.get(), utilities_.get());
    CHECK_CUDA(check_pairs(pairs, g_.dtype, cache_.faults, stream_));
    CHECK_CUDA(decode_insert({cache_.state, cache_.plan, pairs, cache_.faults}, stream_));
    CHECK_CUDA(cudaStreamEndCapture(stream_, &graph));
    CHECK_CUDA(cudaGraphInstantiate(&graph_, graph, 0));
    CHECK_CUDA(cudaGraphDestroy(graph));
  }

  std::vector<float> step(const std::vector<bf16>& q, const std::vector<bf16>& keys,
                          const std::vector<bf16>& values, const std::vector<float>& utilities) {
    q_.write(q);
    keys_.write(pack_rows(keys, g_.dtype, g_.dim, row_bytes_));
    values_.write(pack_rows(values, g_.dtype, g_.dim, row_bytes_));
    key_floats_.write(widened(keys));
    value_floats_.write(widened(values));
    utilities_.write(utilities);
    out_.fill(0xff);
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK_CUDA(cudaGraphLaunch(graph_, stream_));
    CHECK_CUDA(cudaStreamSynchronize(stream_));
    return out_.read();
  }

 private:
  Setup setup_;
  Geometry g_;
  int batch_, heads_;
  TestCache cache_;
  DeviceArray<int32_t> slots_;
  DeviceArray<bf16> q_;
  int64_t row_bytes_;
  DeviceArray<uint8_t> keys_, values_;
  DeviceArray<float> key_floats_, value_floats_, out_, utilities_;
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t graph_ = nullptr;
};

constexpr float kThreshold = 0.5f;

struct Numbers {
  std::vector<bf16> q, keys, values;
  std::vector<float> utilities;
};

// Utilities of one list in three are 0, of one in three 1: skew is the normal case. Some sit on the
// threshold.
Numbers draw(const Setup& setup, Random* random) {
  const Geometry& g = setup.geometry;
  size_t rows = g.layers * setup.slots.size() * g.kv_heads;
  Numbers n{random->normals(rows * setup.group * g.dim), random->normals(rows * g.dim),
            random->normals(rows * g.dim), std::vector<float>(rows)};
  for (size_t i = 0; i < rows; i++) {
    bool keep = i % 3 == 0 || (i % 3 == 1 && random->uniform() < setup.density);
    n.utilities[i] = keep ? (random->below(4) == 0 ? kThreshold : 0.9f) : 0.49f;
  }
  return n;
}

double compare(const Setup& setup, const std::vector<History>& histories, Numbers n,
               const std::vector<float>& out) {
  const Geometry& g = setup.geometry;
  round_rows(&n.keys, g.dtype, g.dim);
  round_rows(&n.values, g.dtype, g.dim);
  int batch = static_cast<int>(setup.slots.size()), heads = g.kv_heads * setup.group;
  double worst = 0;
  for (int row = 0; row < g.layers * batch * heads; row++) {
    int layer = row / (batch * heads), b = row / heads % batch, head = row % heads / setup.group;
    int list = layer * g.kv_heads + head;
    const History& h = histories[b];
    int length = static_cast<int>(h.keys.size());
    size_t at = (static_cast<size_t>(layer * batch + b) * g.kv_heads + head) * g.dim;
    std::vector<Pair> pairs = {{&n.keys[at], &n.values[at]}};
    for (int s = 0; s < length; s++)
      if (length - s < g.window || h.utilities[s][list] >= kThreshold)
        pairs.push_back(
            {&h.keys[s][static_cast<size_t>(list) * g.dim], &h.values[s][static_cast<size_t>(list) * g.dim]});
    Reference expected = reference_attention(&n.q[static_cast<size_t>(row) * g.dim], pairs, g.dim,
                                             1 / std::sqrt(static_cast<double>(g.dim)));
    for (int d = 0; d < g.dim; d++) {
      double error = std::abs(out[static_cast<size_t>(row) * g.dim + d] - expected.out[d]);
      worst = error == error ? std::max(worst, error / tolerance(expected, d)) : INFINITY;
    }
  }
  return worst;
}

}  // namespace spkv_test
