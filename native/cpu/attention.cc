// Attention of one new token per sequence: decoding. Bound by reading the cache, so every page is read once,
// for all query heads of its group.
//
// A list of pages is cut into runs of kRunPages, by index only. Each (list, run) is one item for the thread
// pool; where a list has several runs, their running softmaxes are merged in ascending order. So the result
// is the same to the bit whatever else is in the batch and however many threads there are.
#include "ops/attention.h"

#include "cpu/attention_paths.h"
#include "cpu/expand.h"
#include "cpu/running_softmax.h"

SPKV_ISA_BEGIN
namespace {

constexpr int64_t kRunPages = 8;
constexpr int64_t kWorthSplitting = 16384;  // floats to merge, from which it pays to use all cores
constexpr int64_t kUnitRows = 16;           // query heads that share a pass over the pages

// Query heads [first_head, first_head + rows) of one token: they share a list.
struct Unit {
  ListView list;
  int64_t token, kv_head, first_head, rows;
  int64_t pages, runs, first_item;
  float* partial;  // [runs] times rows tops, rows sums, rows outputs; only with several runs
};

struct Plan {
  Unit* units = nullptr;  // null: only count
  int32_t* unit_of_item = nullptr;
  float* partials = nullptr;
  int64_t unit_count = 0, items = 0, partial_floats = 0;
  float* page_memory = nullptr;  // of every thread, page_floats
  int64_t page_floats = 0;

  void carve(Carver* carver, int64_t threads) {
    page_memory = carver->take<float>(threads * page_floats);
    units = carver->take<Unit>(unit_count);
    unit_of_item = carver->take<int32_t>(items);
    partials = carver->take<float>(partial_floats);
    unit_count = items = partial_floats = 0;
  }
};

int64_t partial_size(const Unit& unit, int64_t dim) { return unit.rows * (2 + padded_dim(dim)); }

// Query heads per unit: the group, in equal parts if it is large.
int64_t rows_per_unit(int64_t group) { return divide_up(group, divide_up(group, kUnitRows)); }

void add_unit(Unit unit, int64_t dim, Plan* plan) {
  unit.pages = unit.list.ring_pages + divide_up(unit.list.kept, kPageTokens);
  unit.runs = divide_up(unit.pages, kRunPages);
  unit.first_item = plan->items;
  unit.partial = plan->partials + plan->partial_floats;
  if (plan->units) {
    plan->units[plan->unit_count] = unit;
    for (int64_t i = 0; i < unit.runs; i++)
      plan->unit_of_item[plan->items + i] = static_cast<int32_t>(plan->unit_count);
  }
  plan->unit_count++;
  plan->items += unit.runs;
  if (unit.runs > 1) plan->partial_floats += unit.runs * partial_size(unit, dim);
}

void make_units(const AttentionParams& params, CpuCache& cache, Plan* plan) {
  const CacheGeometry& g = cache.geometry();
  const int32_t* slots = params.slots.as<int32_t>();
  const int32_t* offsets = params.offsets.as<int32_t>();
  int64_t group = params.q.shape[1] / g.kv_heads, most = rows_per_unit(group);
  for (int64_t b = 0; b < params.slots.shape[0]; b++) {
    if (offsets[b + 1] - offsets[b] != 1) continue;
    for (int64_t head = 0; head < g.kv_heads; head++) {
      Unit unit = {};
      unit.list = cache.list_view(slots[b], params.layer, head);
      unit.token = offsets[b];
      unit.kv_head = head;
      for (int64_t row = 0; row < group; row += most) {
        unit.first_head = head * group + row;
        unit.rows = smaller(most, group - row);
        add_unit(unit, g.head_dim, plan);
      }
    }
  }
}

// The ring's slots that the token at position T sees: positions (T - window, T), and T - window if it is
// kept.
struct RingArc {
  int64_t first = 0, count = 0, slots;

  RingArc(const ListView& list, int64_t window) : slots(list.ring_slots) {
    int64_t position = larger<int64_t>(0, list.length - window + 1);
    if (list.length >= window && list.keep[(list.length - window) % slots]) position--;
    first = position % slots;
    count = list.length - position;
  }
  // Whether slots [begin, end) are all in the arc, and whether any is.
  bool covers(int64_t begin, int64_t end) const { return distance(begin) + end - begin <= count; }
  bool touches(int64_t begin, int64_t end) const {
    return count > 0 && (distance(begin) < count || slots - distance(begin) < end - begin);
  }

 private:
  int64_t distance(int64_t slot) const { return slot >= first ? slot - first : slot - first + slots; }
};

struct InArc {
  static constexpr bool kChanges = true;
  RingArc arc;
  int64_t begin;  // slot of column 0

  SPKV_INLINE vf operator()(int64_t, int64_t column, vf scores) const {
    int32_t slots = static_cast<int32_t>(arc.slots), count = static_cast<int32_t>(arc.count);
    vi slot = iota_from(begin + column);
    vi distance = slot - splati(static_cast<int32_t>(arc.first));
    distance += (distance < splati(0)) & splati(slots);
    return select((distance < splati(count)) & (slot < splati(slots)), scores, minus_infinity());
  }
};

template <typename T>
void add_ring_page(const RunningSoftmax& state, const ListView& list, const RingArc& arc, int64_t index,
                   float* memory) {
  int64_t begin = index * kPageTokens, end = smaller(begin + kPageTokens, list.ring_slots);
  if (!arc.touches(begin, end)) return;
  int64_t columns = (end - begin + 15) / 16 * 16;
  auto page = readable(Page<T>(list.page(index), state.dim), columns, memory);
  if (arc.covers(begin, begin + kPageTokens) && end - begin == kPageTokens) {
    state.add(page.keys, page.values, kPageTokens, Visible());
  } else {
    state.add(page.keys, page.values, columns, InArc{arc, begin});
  }
}

// The token's own pair.
void add_self(const RunningSoftmax& state, const float* key, const float* value) {
  for (int64_t r = 0; r < state.rows; r++) {
    const float* q = state.q + r * state.dim;
    vf total = {};
    int64_t d = 0;
    for (; d + kLanes <= state.dim; d += kLanes) total += loadf(q + d) * loadf(key + d);
    float score = sum(total);
    for (; d < state.dim; d++) score += q[d] * key[d];
    state.top[r] = score;
    state.sum[r * kLanes] = 1.0f;
    memcpy(state.out + r * padded_dim(state.dim), value, static_cast<size_t>(state.dim) * sizeof(float));
  }
}

// The first page of a run.
const char* first_page(const Unit& unit, int64_t run) {
  return static_cast<const char*>(unit.list.page(run * kRunPages));
}

// Touches one cache line in each 4 KiB of a page that comes next: the processor's own prefetching stops at
// every such border, and continues from there.
void announce(const char* page, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 4096) __builtin_prefetch(page + i, 0, 2);
}

// `next` is the page that is wanted after this run, or null. The pages of a list lie anywhere, so each is
// asked for while the one before is used: line by line where the arithmetic takes about as long as the
// reading. Where it takes much less, with f32 or one row, the processor's own prefetching reaches more lines
// at once.
template <typename T>
void add_run(const AttentionParams& params, const Unit& unit, int64_t run, const char* next, float* memory,
             RunningSoftmax state) {
  state.clear();
  if (run == 0) {
    float key[256], value[256];
    auto row = [&](const View& view) {
      return view.as<float>() + unit.token * view.stride[0] + unit.kv_head * view.stride[1];
    };
    add_self(state, as_stored<T>(row(params.keys), state.dim, key),
             as_stored<T>(row(params.values), state.dim, value));
  }
  RingArc arc(unit.list, params.cache->geometry().window);
  const bool line_by_line = sizeof(T) == 2 && unit.rows > 1;
  int64_t end = smaller((run + 1) * kRunPages, unit.pages);
  for (int64_t i = run * kRunPages; i < end; i++) {
    const char* page = static_cast<const char*>(unit.list.page(i));
    const char* following = i + 1 < end ? static_cast<const char*>(unit.list.page(i + 1)) : next;
    state.ahead = following && line_by_line ? following - page : 0;
    if (following && !line_by_line) announce(following, unit.list.page_bytes);
    if (i < unit.list.ring_pages) {
      add_ring_page<T>(state, unit.list, arc, i, memory);
    } else {
      int64_t count = unit.list.kept - (i - unit.list.ring_pages) * kPageTokens;
      auto page = readable(Page<T>(unit.list.page(i), state.dim), columns_for(count), memory);
      add_first(state, page.keys, page.values, count);
    }
  }
}

float* result_row(const AttentionParams& params, const Unit& unit, int64_t r) {
  return params.out.as<float>() + unit.token * params.out.stride[0] +
         (unit.first_head + r) * params.out.stride[1];
}

void run_item(const AttentionParams& params, const Unit& unit, int64_t run, const char* next, float* memory) {
  alignas(64) float q[kUnitRows * 256], out[kUnitRows * 256], top[kUnitRows], sums[kUnitRows * kLanes];
  int64_t dim = params.q.shape[2], width = padded_dim(dim);
  RunningSoftmax state{unit.rows, dim, q, top, sums, out};
  for (int64_t r = 0; r < unit.rows; r++)
    scale_row(query_row(params.q, unit.token, unit.first_head + r), dim, params.scale, q + r * dim);
  with_elements(params.cache->geometry().dtype,
                [&](auto element) { add_run<decltype(element)>(params, unit, run, next, memory, state); });
  if (unit.runs == 1) {
    for (int64_t r = 0; r < unit.rows; r++) state.finish(r, result_row(params, unit, r));
    return;
  }
  float* partial = unit.partial + run * partial_size(unit, dim);
  for (int64_t r = 0; r < unit.rows; r++) {
    partial[r] = top[r];
    partial[unit.rows + r] = state.lane_sum(r);
  }
  memcpy(partial + 2 * unit.rows, out, static_cast<size_t>(unit.rows * width) * sizeof(float));
}

void merge_runs(const AttentionParams& params, const Unit& unit) {
  int64_t dim = params.q.shape[2], width = padded_dim(dim), size = partial_size(unit, dim);
  for (int64_t r = 0; r < unit.rows; r++) {
    const float* partial = unit.partial;
    float top = partial[r], total = 0;
    for (int64_t i = 1; i < unit.runs; i++) top = larger(top, partial[i * size + r]);
    alignas(64) float out[256] = {};
    for (int64_t i = 0; i < unit.runs; i++, partial += size) {
      vf factor = exp_of_negative(splat(partial[r] - top));
      total += partial[unit.rows + r] * factor[0];
      const float* row = partial + 2 * unit.rows + r * width;
      for (int64_t d = 0; d < width; d += kLanes) store(out + d, loadf(out + d) + loadf(row + d) * factor);
    }
    float share = 1.0f / total;
    float* result = result_row(params, unit, r);
    for (int64_t d = 0; d < dim; d++) result[d] = out[d] * share;
  }
}

}  // namespace

Status attention_decode(const AttentionParams& params, Execution& execution) {
  CpuCache& cache = *static_cast<CpuCache*>(params.cache);
  Plan plan;
  plan.page_floats = expanded_floats(cache.geometry());
  make_units(params, cache, &plan);
  if (plan.units == nullptr && plan.unit_count == 0) return Status();
  Plan sizes = plan;
  Carver measure{nullptr};
  const int64_t threads = execution.pool->threads();
  sizes.carve(&measure, threads);
  Carver carver{static_cast<char*>(scratch(measure.used))};
  if (!carver.base) return no_scratch(measure.used);
  plan.carve(&carver, threads);
  make_units(params, cache, &plan);
  auto unit_of = [&](int64_t item) -> const Unit& { return plan.units[plan.unit_of_item[item]]; };
  parallel(execution, plan.items, [&](int64_t item, int thread) {
    const Unit& unit = unit_of(item);
    // Items are handed out in order, so this thread's next one is about `threads` further.
    const int64_t later = item + threads;
    const char* next =
        later < plan.items ? first_page(unit_of(later), later - unit_of(later).first_item) : nullptr;
    run_item(params, unit, item - unit.first_item, next, plan.page_memory + thread * plan.page_floats);
  });
  if (plan.partial_floats == 0) return Status();
  auto merge = [&](int64_t i, int) {
    if (plan.units[i].runs > 1) merge_runs(params, plan.units[i]);
  };
  if (plan.partial_floats > kWorthSplitting) {
    parallel(execution, plan.unit_count, merge);
  } else {
    for (int64_t i = 0; i < plan.unit_count; i++) merge(i, 0);
  }
  return Status();
}

Status attention(const AttentionParams& params, Execution& execution) {
  CpuCache& cache = *static_cast<CpuCache*>(params.cache);
  SPKV_RETURN_IF_ERROR(cache.check_step(params.slots, params.offsets, params.q.shape[0]));
  SPKV_RETURN_IF_ERROR(attention_decode(params, execution));
  return attention_chunk(params, execution);
}

SPKV_ISA_END
