// Prefill attention against float64, on caches filled by hand: every byte that holds no pair is NaN.
#include <algorithm>
#include <memory>

#include "cuda/prefill_attention.h"
#include "plain_context.h"
#include "tests.h"

namespace spkv_test {
namespace {

struct PrefillCase {
  std::string name;
  Geometry geometry;
  int group = 4;
  std::vector<int> lengths;  // T of every sequence
  std::vector<int> tokens;   // new ones
  double density = 0.5;      // of lists but each third, which keep all or nothing
  int padding = 0;           // elements between the rows of a tensor
  bool all_kept = false;     // no utilities
  int samples = 40;          // rows that are compared
  double q_scale = 1;
};

// One (sequence, KV head): everything that it has seen and now sees, by position.
struct List {
  std::vector<bf16> keys, values;
  std::vector<uint8_t> keep;
};

// A tensor [T][heads][D] with padding, as the host has it.
struct Tensor {
  int heads, dim, head_stride, token_stride;
  std::vector<float> data;

  Tensor(int tokens, int heads, int dim, int padding)
      : heads(heads),
        dim(dim),
        head_stride(dim + padding),
        token_stride(heads * head_stride + padding),
        data(static_cast<size_t>(tokens) * token_stride + 1, NAN) {}
  float* row(int token, int head) {
    return data.data() + static_cast<size_t>(token) * token_stride + static_cast<size_t>(head) * head_stride;
  }
  spkv::View view(float* device) const {
    spkv::View view;
    view.data = device;
    view.rank = 3;
    view.shape[1] = heads;
    view.shape[2] = dim;
    view.stride[0] = token_stride;
    view.stride[1] = head_stride;
    return view;
  }
};

class PrefillRun {
 public:
  PrefillRun(const PrefillCase& test, uint64_t seed)
      : test_(test),
        g_(test.geometry),
        random_(seed),
        total_(0),
        heads_(g_.kv_heads * test.group),
        cache_(g_, g_.sequences, 1) {
    for (size_t b = 0; b < test.tokens.size(); b++) {
      offsets_.push_back(total_);
      slots_.push_back(static_cast<int>((b * 7 + 3) % test.tokens.size()));
      total_ += test.tokens[b];
    }
    offsets_.push_back(total_);
    for (size_t b = 1; b < slots_.size(); b++)  // all different
      if (slots_.size() % 7 == 0) slots_[b] = static_cast<int>(b), slots_[0] = 0;
    draw();
    build();
  }

  void check_all() {
    std::vector<float> out = run();
    std::vector<float> again = run();
    expect(memcmp(out.data(), again.data(), out.size() * 4) == 0, test_.name + ": same bits again");
    check_rows(out);
    check_padding(out);
    check_non_finite(out, false);
    check_non_finite(out, true);
    // The kernel of GPUs before Hopper.
    portable_ = true;
    out = run();
    check_rows(out);
    check_padding(out);
    check_non_finite(out, false);
  }

 private:
  List& list(int b, int head) { return lists_[static_cast<size_t>(b) * g_.kv_heads + head]; }

  void draw() {
    q_ = std::make_unique<Tensor>(total_, heads_, g_.dim, test_.padding);
    keys_ = std::make_unique<Tensor>(total_, g_.kv_heads, g_.dim, test_.padding);
    values_ = std::make_unique<Tensor>(total_, g_.kv_heads, g_.dim, test_.padding);
    utilities_.assign(static_cast<size_t>(total_) * g_.kv_heads, 0);
    for (int t = 0; t < total_; t++)
      for (int h = 0; h < heads_; h++)
        for (int d = 0; d < g_.dim; d++)
          q_->row(t, h)[d] = __bfloat162float(
              __float2bfloat16(static_cast<float>(random_.normal() * test_.q_scale)));
    for (size_t b = 0; b < test_.tokens.size(); b++) {
      for (int head = 0; head < g_.kv_heads; head++) {
        List drawn;
        int count = test_.lengths[b] + test_.tokens[b];
        drawn.keys = random_.normals(static_cast<size_t>(count) * g_.dim);
        drawn.values = random_.normals(static_cast<size_t>(count) * g_.dim);
        int kind = (static_cast<int>(b) + head) % 3;
        for (int s = 0; s < count; s++)
          drawn.keep.push_back(kind == 1 || (kind == 0 && random_.uniform() < test_.density) ||
                               (test_.all_kept && s >= test_.lengths[b]));
        for (int i = 0; i < test_.tokens[b]; i++) {
          size_t s = static_cast<size_t>(test_.lengths[b] + i);
          for (int d = 0; d < g_.dim; d++) {
            keys_->row(offsets_[b] + i, head)[d] = __bfloat162float(drawn.keys[s * g_.dim + d]);
            values_->row(offsets_[b] + i, head)[d] = __bfloat162float(drawn.values[s * g_.dim + d]);
          }
          utilities_[static_cast<size_t>(offsets_[b] + i) * g_.kv_heads + head] = drawn.keep[s] ? 0.5f : 0.49f;
        }
        round_rows(&drawn.keys, g_.dtype, g_.dim);
        round_rows(&drawn.values, g_.dtype, g_.dim);
        lists_.push_back(drawn);
      }
    }
  }

  // Fills the cache with the pairs of positions below T.
  void build() {
    const CacheState& state = cache_.state;
    int bytes = page_bytes_of(g_.dtype, g_.dim), slots = g_.window + g_.slack;
    std::vector<int32_t> table(cache_.table.size(), 0x7fffffff), kept(cache_.kept.size(), -1), ids;
    std::vector<int32_t> length(g_.sequences, -1);
    std::vector<uint32_t> keep(cache_.keep.size());
    for (uint32_t& word : keep) word = static_cast<uint32_t>(random_.next());
    for (int i = 0; i < g_.capacity; i++) ids.push_back(i);
    for (int i = g_.capacity - 1; i > 0; i--) std::swap(ids[i], ids[random_.below(i + 1)]);
    std::vector<uint8_t> pool(cache_.pool.size(), 0xff);
    for (size_t b = 0; b < test_.tokens.size(); b++) {
      int seen = test_.lengths[b];
      length[slots_[b]] = seen;
      for (int head = 0; head < g_.kv_heads; head++) {
        const List& from = list(static_cast<int>(b), head);
        size_t index = static_cast<size_t>(state.list(kLayer, slots_[b], head));
        auto put = [&](int page, int slot, int position) {
          int32_t& id = table[index * g_.table_pages + page];
          if (id == 0x7fffffff) {
            id = ids.back();
            ids.pop_back();
          }
          size_t at = static_cast<size_t>(position) * g_.dim;
          put_pair(pool.data() + static_cast<size_t>(id) * bytes, g_.dtype, g_.dim, slot, &from.keys[at],
                   &from.values[at]);
        };
        for (int p = std::max(0, seen - g_.window); p < seen; p++) {
          int slot = p % slots;
          put(slot / kPageSlots, slot % kPageSlots, p);
          uint32_t& word = keep[index * state.keep_words + slot / 32];
          word = (word & ~(1u << slot % 32)) | uint32_t{from.keep[p]} << slot % 32;
        }
        kept[index] = 0;
        for (int p = 0; p < seen - g_.window; p++) {
          if (!from.keep[p]) continue;
          put(state.ring_pages + kept[index] / kPageSlots, kept[index] % kPageSlots, p);
          kept[index]++;
        }
      }
    }
    cache_.pool.write(pool);
    cache_.table.write(table);
    cache_.kept.write(kept);
    cache_.keep.write(keep);
    cache_.length.write(length);
    cache_.threshold.write(std::vector<float>(g_.sequences, 0.5f));
  }

  std::vector<float> run() {
    DeviceArray<float> q(q_->data), keys(keys_->data), values(values_->data), utilities(utilities_);
    DeviceArray<float> out(q_->data.size());
    DeviceArray<int32_t> slots(slots_), offsets(offsets_);
    PrefillAttentionParams p;
    p.out = q_->view(out.get() + test_.padding % 4);
    p.q = q_->view(q.get());
    p.keys = keys_->view(keys.get());
    p.values = values_->view(values.get());
    if (!test_.all_kept) p.utilities.data = utilities.get();
    p.utilities.stride[0] = g_.kv_heads;
    p.cache = cache_.state;
    p.kept_pages = g_.sequences * g_.kv_heads * g_.table_pages;
    p.slots = slots.get();
    p.offsets = offsets.get();
    p.batch = static_cast<int>(slots_.size());
    p.tokens = total_;
    p.longest = *std::max_element(test_.tokens.begin(), test_.tokens.end());
    p.layer = kLayer;
    p.heads = heads_;
    p.scale = 1 / std::sqrt(static_cast<float>(g_.dim));
    expect(prefill_takes(p), test_.name + ": is taken");
    expect(prefill_attention(p, portable_ ? portable_context_ : context_).ok(), test_.name + ": runs");
    CHECK_CUDA(cudaDeviceSynchronize());
    std::vector<float> result = out.read();
    result.erase(result.begin(), result.begin() + test_.padding % 4);
    return result;
  }

  bool sees(int b, int head, int i, int s) {
    int t = test_.lengths[b] + i;
    return s <= t && (t - s < g_.window || list(b, head).keep[s]);
  }

  void check_rows(const std::vector<float>& out) {
    double worst = 0;
    std::string where;
    for (int n = 0; n < test_.samples; n++) {
      int token = n < 4 ? std::max(0, total_ - 1 - n) : random_.below(total_), h = random_.below(heads_), b = 0;
      while (offsets_[b + 1] <= token) b++;
      int i = token - offsets_[b], head = h / test_.group;
      List& from = list(b, head);
      std::vector<Pair> pairs;
      for (int s = 0; s <= test_.lengths[b] + i; s++)
        if (sees(b, head, i, s))
          pairs.push_back({&from.keys[static_cast<size_t>(s) * g_.dim], &from.values[static_cast<size_t>(s) * g_.dim]});
      std::vector<bf16> query(g_.dim);
      for (int d = 0; d < g_.dim; d++) query[d] = __float2bfloat16(q_->row(token, h)[d]);
      Reference expected =
          reference_attention(query.data(), pairs, g_.dim, 1 / std::sqrt(static_cast<double>(g_.dim)));
      const float* row = &out[static_cast<size_t>(q_->row(token, h) - q_->data.data())];
      for (int d = 0; d < g_.dim; d++) {
        double error = std::abs(row[d] - expected.out[d]) / tolerance(expected, d);
        if (error == error && error <= worst) continue;
        worst = error == error ? error : INFINITY;
        where = " (sequence " + std::to_string(b) + ", head " + std::to_string(h) + ", token " + std::to_string(i) + ")";
      }
    }
    expect(worst <= 1, test_.name + ": error over tolerance " + std::to_string(worst) + where);
  }

  void check_padding(const std::vector<float>& out) {
    bool good = true;
    std::vector<uint8_t> written(out.size());
    for (int t = 0; t < total_; t++)
      for (int h = 0; h < heads_; h++)
        std::fill_n(written.begin() + (q_->row(t, h) - q_->data.data()), g_.dim, 1);
    for (size_t i = 0; i < out.size(); i++) good = good && (std::isnan(out[i]) == !written[i]);
    expect(good, test_.name + ": rows are written, and nothing between them");
  }

  // A new key or value that is no number changes those rows that see it, and no others.
  void check_non_finite(const std::vector<float>& clean, bool in_key) {
    int token = random_.below(total_), head = random_.below(g_.kv_heads), d = random_.below(g_.dim), b = 0;
    while (offsets_[b + 1] <= token) b++;
    float& number = (in_key ? keys_ : values_)->row(token, head)[d];
    float before = number;
    number = random_.below(2) == 0 ? NAN : INFINITY;
    std::vector<float> dirty = run();
    number = before;
    bool good = true;
    for (int t = 0; t < total_; t++) {
      for (int h = 0; h < heads_; h++) {
        int i = t - offsets_[b];
        bool seen = t >= offsets_[b] && t < offsets_[b + 1] && h / test_.group == head &&
                    sees(b, head, i, test_.lengths[b] + token - offsets_[b]);
        size_t at = static_cast<size_t>(q_->row(t, h) - q_->data.data());
        if (!seen) {
          good = good && memcmp(&clean[at], &dirty[at], static_cast<size_t>(g_.dim) * 4) == 0;
        } else if (g_.dtype == DType::kFP8) {
          // All numbers of a row are lost with one of them.
          for (int e = 0; e < g_.dim; e++) good = good && !std::isfinite(dirty[at + e]);
        } else if (!in_key) {
          for (int e = 0; e < g_.dim; e++) good = good && std::isfinite(dirty[at + e]) == (e != d);
        } else if (std::isnan(number)) {
          good = good && std::isnan(dirty[at]);
        }
      }
    }
    expect(good, test_.name + (in_key ? ": a key" : ": a value") + " that is no number is seen where it is visible");
  }

  static constexpr int kLayer = 1;
  PrefillCase test_;
  Geometry g_;
  Random random_;
  int total_, heads_;
  TestCache cache_;
  PlainContext context_{true}, portable_context_{true, 80};
  bool portable_ = false;
  std::vector<int32_t> offsets_, slots_;
  std::vector<List> lists_;
  std::unique_ptr<Tensor> q_, keys_, values_;
  std::vector<float> utilities_;
};

void run_case(PrefillCase test, DType dtype, int dim, int kv_heads, int window, int slack, uint64_t seed) {
  Geometry& g = test.geometry;
  int longest = 0, batch = static_cast<int>(test.tokens.size());
  for (int length : test.lengths) longest = std::max(longest, length);
  g = {2, kv_heads, dim, window, slack, batch, 0, 0, dtype};
  g.table_pages = (window + slack + 63) / 64 + longest / 64 + 1;
  g.capacity = batch * kv_heads * g.table_pages;
  test.name = std::string("prefill ") + spkv::dtype_name(dtype) + " D " + std::to_string(dim) + " window " + std::to_string(window) + " + " + std::to_string(slack) +
              " group " + std::to_string(test.group) + ": " + test.name;
  PrefillRun(test, seed).check_all();
}

PrefillCase make(const std::string& name, int group, std::vector<int> lengths, std::vector<int> tokens) {
  PrefillCase test;
  test.name = name;
  test.group = group;
  test.lengths = std::move(lengths);
  test.tokens = std::move(tokens);
  return test;
}

}  // namespace

void prefill_test(bool quick, DType dtype) {
  for (int dim : {64, 128}) {
    run_case(make("first chunks", 4, {0, 0, 0}, {150, 1, 64}), dtype, dim, 2, 64, 0, 1);
    run_case(make("chunks behind others", 2, {300, 0, 64, 1}, {70, 5, 0, 33}), dtype, dim, 3, 40, 9, 2);
    if (quick) continue;
    PrefillCase dense = make("everything kept", 4, {100, 3}, {130, 80});
    dense.all_kept = true;
    run_case(dense, dtype, dim, 2, 32, 0, 3);
    PrefillCase sparse = make("little kept, rows of any alignment", 3, {500}, {260});
    sparse.density = 0.05;
    sparse.padding = 1;
    run_case(sparse, dtype, dim, 3, 100, 70, 4);
    PrefillCase apart = make("rows apart, aligned", 5, {64, 63, 65}, {65, 64, 63});
    apart.padding = 4;
    run_case(apart, dtype, dim, 1, 64, 0, 5);
    PrefillCase large = make("large scores", 4, {90}, {100});
    large.q_scale = 200;
    run_case(large, dtype, dim, 1, 20, 0, 6);
    run_case(make("a group wider than a tile", 150, {70}, {5}), dtype, dim, 1, 16, 0, 7);
    run_case(make("one query head", 1, {31, 2, 200}, {140, 3, 129}), dtype, dim, 2, 128, 0, 8);
    for (int window : {1, 63, 65, 128, 200})
      run_case(make("windows", 4, {window - 1, window, window + 1, 2 * window + 3}, {3, 66, window, 2}), dtype, dim, 1,
               window, window % 3 * 20, 9 + window);
  }
}

}  // namespace spkv_test
