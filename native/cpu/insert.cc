// Insertion and positions on the CPU. The cache does the bookkeeping (cpu/cache_insert.cc); here the numbers
// are checked and moved.
#include "ops/insert.h"

#include "core/step_checks.h"
#include "cpu/cache.h"
#include "cpu/logits.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN
namespace {

// Elements from which it pays to wake the other cores.
constexpr int64_t kWorthSplitting = 16384;
constexpr int64_t kCheckRows = 32;

// Whether every |x| has bits up to `limit`. NaN and infinity have the highest bits of all.
bool all_up_to(const float* x, int64_t count, uint32_t limit) {
  vu worst = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    vu bits = load<vu>(x + i) & 0x7fffffffu;
    worst = bits > worst ? bits : worst;
  }
  uint32_t most = 0;
  for (int lane = 0; lane < kLanes; lane++) most = larger(most, worst[lane]);
  for (; i < count; i++) most = larger(most, as_bits(x[i]) & 0x7fffffffu);
  return most <= limit;
}

// Rows [from, to) of one layer of [L, T, G, ...] with `width` numbers side by side.
bool rows_up_to(const View& view, int64_t layer, int64_t from, int64_t to, int64_t width, uint32_t limit) {
  bool good = true;
  for (int64_t t = from; t < to; t++) {
    for (int64_t g = 0; g < view.shape[2]; g++) {
      const float* row = view.as<float>() + layer * view.stride[0] + t * view.stride[1] + g * view.stride[2];
      good = good & all_up_to(row, width, limit);
    }
  }
  return good;
}

// *least = the lesser of it and `value`, whatever other threads do.
void lower(int64_t* least, int64_t value) {
  int64_t seen = __atomic_load_n(least, __ATOMIC_RELAXED);
  while (value < seen &&
         !__atomic_compare_exchange_n(least, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

Status check_finite(const InsertParams& params, Execution& execution) {
  int64_t layers = params.keys.shape[0], tokens = params.keys.shape[1];
  int64_t dim = params.keys.shape[3], width = params.keys.shape[2] * dim;
  DType dtype = params.cache->geometry().dtype;
  uint32_t limit = largest_number(dtype), finite = largest_number(DType::kF32);
  int64_t pieces = divide_up(tokens, kCheckRows);
  int64_t worst = INT64_MAX;  // first bad (layer, what), so that the answer does not depend on the threads
  auto check = [&](int64_t item, int) {
    int64_t layer = item / pieces, from = item % pieces * kCheckRows, to = smaller(from + kCheckRows, tokens);
    int64_t what = !rows_up_to(params.keys, layer, from, to, dim, limit)                           ? 0
                   : !rows_up_to(params.values, layer, from, to, dim, limit)                       ? 1
                   : params.utilities && !rows_up_to(params.utilities, layer, from, to, 1, finite) ? 2
                                                                                                   : 3;
    if (what == 3) return;
    lower(&worst, layer * 3 + what);
  };
  if (layers * tokens * width > kWorthSplitting) {
    parallel(execution, layers * pieces, check);
  } else {
    for (int64_t i = 0; i < layers * pieces; i++) check(i, 0);
  }
  if (worst == INT64_MAX) return Status();
  return not_finite(worst / 3, worst % 3, dtype);
}

Status check_logits(const View& logits, Execution& execution) {
  const int64_t rows = logits.shape[0], vocabulary = logits.shape[1];
  auto row = [&](int64_t t) { return logits.as<const float>() + t * logits.stride[0]; };
  int64_t first = rows;  // that is not finite, whichever thread finds one
  for_rows(execution, rows, vocabulary, [&](int64_t begin, int64_t end) {
    int64_t t = begin;
    while (t < end && find_peak(row(t), vocabulary).finite) t++;
    if (t < end) lower(&first, t);
  });
  if (first == rows) return Status();
  int64_t v = 0;
  while (row(first)[v] * 0.0f == 0) v++;
  return logit_not_finite(first, v, row(first)[v]);
}

// One list of one sequence: its new rows and where they go.
template <typename T>
struct Writer {
  const InsertParams& params;
  ListView list;
  int64_t layer, head, first_row, tokens;
  int64_t dim = params.keys.shape[3];

  const float* row(const View& view, int64_t i) const {
    return view.as<float>() + layer * view.stride[0] + (first_row + i) * view.stride[1] +
           head * view.stride[2];
  }
  bool keep(int64_t i) const { return !params.utilities || row(params.utilities, i)[0] >= list.threshold; }
  Page<T> ring(int64_t slot) const { return Page<T>(list.page(slot / kPageTokens), dim); }

  // The next slot behind the kept pairs. The first write into a page clears it.
  Page<T> append(int64_t* slot) {
    void* page = list.page(list.ring_pages + list.kept / kPageTokens);
    *slot = list.kept % kPageTokens;
    if (*slot == 0) memset(page, 0, static_cast<size_t>(list.page_bytes));
    list.kept++;
    return Page<T>(page, dim);
  }

  // Kept pairs that leave the window, in order: first those in the ring, before it is overwritten.
  void promote(int64_t window) {
    int64_t end = list.length + tokens - window, slot;
    for (int64_t p = larger<int64_t>(0, list.length - window); p < smaller(end, list.length); p++) {
      int64_t source = p % list.ring_slots;
      if (!list.keep[source]) continue;
      Page<T> page = append(&slot);
      page.copy(slot, ring(source), source % kPageTokens);
    }
    for (int64_t i = 0; i < end - list.length; i++) {
      if (!keep(i)) continue;
      Page<T> page = append(&slot);
      page.write(slot, row(params.keys, i), row(params.values, i));
    }
  }

  void write_ring() {
    for (int64_t i = larger<int64_t>(0, tokens - list.ring_slots); i < tokens; i++) {
      int64_t slot = (list.length + i) % list.ring_slots;
      ring(slot).write(slot % kPageTokens, row(params.keys, i), row(params.values, i));
      list.keep[slot] = keep(i);
    }
  }
};

template <typename T>
void write_lists(const InsertParams& params, CpuCache& cache, Execution& execution) {
  const CacheGeometry& g = cache.geometry();
  const int32_t* slots = params.slots.as<int32_t>();
  const int32_t* offsets = params.offsets.as<int32_t>();
  int64_t lists = g.layers * g.kv_heads;
  auto body = [&](int64_t item, int) {
    int64_t b = item / lists, layer = item % lists / g.kv_heads, head = item % g.kv_heads;
    int64_t tokens = offsets[b + 1] - offsets[b];
    if (tokens == 0) return;
    Writer<T> writer{params, cache.list_view(slots[b], layer, head), layer, head, offsets[b], tokens};
    writer.promote(g.window);
    writer.write_ring();
  };
  int64_t items = params.slots.shape[0] * lists;
  if (lists * params.keys.shape[1] * g.head_dim > kWorthSplitting) {
    parallel(execution, items, body);
  } else {
    for (int64_t i = 0; i < items; i++) body(i, 0);
  }
}

}  // namespace

Status insert(const InsertParams& params, Execution& execution) {
  CpuCache& cache = *static_cast<CpuCache*>(params.cache);
  SPKV_RETURN_IF_ERROR(cache.check_step(params.slots, params.offsets, params.keys.shape[1]));
  SPKV_RETURN_IF_ERROR(check_finite(params, execution));
  if (params.logits) SPKV_RETURN_IF_ERROR(check_logits(params.logits, execution));
  const PageCopy* copies = nullptr;
  int64_t copy_count = 0;
  SPKV_RETURN_IF_ERROR(cache.begin_insert(params, &copies, &copy_count));
  size_t page_bytes = static_cast<size_t>(cpu::page_bytes(cache.geometry()));
  if (copy_count > 0)
    parallel(execution, copy_count,
             [&](int64_t i, int) { memcpy(copies[i].to, copies[i].from, page_bytes); });
  with_elements(cache.geometry().dtype,
                [&](auto element) { write_lists<decltype(element)>(params, cache, execution); });
  cache.end_insert(params);
  return Status();
}

Status positions(const PositionsParams& params, Execution&) {
  CpuCache& cache = *static_cast<CpuCache*>(params.cache);
  SPKV_RETURN_IF_ERROR(cache.check_step(params.slots, params.offsets, params.out.shape[0]));
  const int32_t* slots = params.slots.as<int32_t>();
  const int32_t* offsets = params.offsets.as<int32_t>();
  int32_t* out = params.out.as<int32_t>();
  for (int64_t b = 0; b < params.slots.shape[0]; b++) {
    int64_t length = cache.length(slots[b]);
    for (int32_t i = offsets[b]; i < offsets[b + 1]; i++)
      out[i] = static_cast<int32_t>(length + i - offsets[b]);
  }
  return Status();
}

SPKV_ISA_END
