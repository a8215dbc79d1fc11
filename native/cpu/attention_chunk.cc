// Attention of many new tokens per sequence: prefill.
//
// With T tokens cached and n new ones, the keys of a list fall into three parts:
//
//   cached kept pages                positions < T - W, of those the kept ones: every query sees all of them
//   local panels                     positions [T - W, T + n): the ring, unrolled, and then the new pairs
//   kept panels                      those of the local pairs that are kept, closed up
//
// A query at position t sees its window (t - W, t] in the local panels and, of what lies further back, all of
// the cached pages and the first so many of the kept panels. So nothing that was pruned is ever touched, and
// only the window's edge and the diagonal need a mask per element. What is masked is exact: the weight is 0.
//
// Pairs of the step take part as they come, in f32; with a bf16 cache later steps see them rounded. With an
// fp8 cache they take part as it will hold them.
#include "cpu/expand.h"
#include "cpu/packed_keys.h"

#include <cstdlib>

SPKV_ISA_BEGIN
namespace {

// One (sequence, KV head). Positions are counted from the first local pair.
struct Chunk {
  ListView list;
  int64_t token, tokens, head;
  int64_t cached;       // local pairs that come from the ring
  int64_t local;        // all local pairs
  int64_t candidates;   // local pairs that some query has outside of its window
  int64_t kept;         // of the candidates
  float* panels;        // [local]
  float* kept_panels;   // [kept]
  int32_t* keep;        // [local, rounded up to a page] -1 or 0
  int32_t* kept_index;  // [kept] which of the local pairs
  int64_t first_pack, first_tile;
};

struct Tile {
  int64_t cost;
  int32_t chunk, index;
};

struct Plan {
  Chunk* chunks = nullptr;
  Tile* tiles = nullptr;
  float* thread_memory = nullptr;
  int64_t chunk_count = 0, tile_count = 0, packs = 0;
};

int64_t tiles_of(int64_t tokens, int64_t group) { return divide_up(tokens * group, kTileQueryRows); }

int64_t thread_floats(const CacheGeometry& geometry) {
  return TileMemory::floats(geometry.head_dim) + expanded_floats(geometry);
}

// Called twice: to learn how much memory is needed (the carver's base is null), and to lay it out.
void lay_out(const AttentionParams& params, CpuCache& cache, int threads, Carver* carver, Plan* plan) {
  const CacheGeometry& g = cache.geometry();
  const int32_t* slots = params.slots.as<int32_t>();
  const int32_t* offsets = params.offsets.as<int32_t>();
  int64_t group = params.q.shape[1] / g.kv_heads;
  Chunk* chunks = carver->take<Chunk>(plan->chunk_count);
  plan->tiles = carver->take<Tile>(plan->tile_count);
  plan->thread_memory = carver->take<float>(threads * thread_floats(g));
  plan->chunk_count = plan->tile_count = 0;
  for (int64_t b = 0; b < params.slots.shape[0]; b++) {
    int64_t tokens = offsets[b + 1] - offsets[b];
    if (tokens < 2) continue;
    for (int64_t head = 0; head < g.kv_heads; head++) {
      Chunk chunk = {};
      chunk.list = cache.list_view(slots[b], params.layer, head);
      chunk.token = offsets[b];
      chunk.tokens = tokens;
      chunk.head = head;
      chunk.cached = smaller(chunk.list.length, g.window);
      chunk.local = chunk.cached + tokens;
      chunk.candidates = larger<int64_t>(0, chunk.local - g.window);
      chunk.panels = carver->take<float>(panel_floats(chunk.local, g.head_dim));
      chunk.kept_panels = carver->take<float>(panel_floats(chunk.candidates, g.head_dim));
      chunk.keep = carver->take<int32_t>(divide_up(chunk.local, kPageTokens) * kPageTokens);
      chunk.kept_index = carver->take<int32_t>(chunk.candidates);
      chunk.first_tile = plan->tile_count;
      if (chunks) chunks[plan->chunk_count] = chunk;
      plan->chunk_count++;
      plan->tile_count += tiles_of(tokens, group);
    }
  }
  plan->chunks = chunks;
}

// Which of the local pairs are kept, and where in the kept panels they go.
void find_kept(const AttentionParams& params, Chunk* chunk) {
  const View& u = params.utilities;
  const ListView& list = chunk->list;
  int64_t first = list.length - chunk->cached;
  for (int64_t i = 0; i < chunk->cached; i++) chunk->keep[i] = -list.keep[(first + i) % list.ring_slots];
  for (int64_t i = chunk->cached; i < chunk->local; i++) {
    int64_t token = chunk->token + i - chunk->cached;
    bool keep = !u || u.as<float>()[token * u.stride[0] + chunk->head * u.stride[1]] >= list.threshold;
    chunk->keep[i] = -static_cast<int32_t>(keep);
  }
  for (int64_t i = chunk->local; i % kPageTokens != 0; i++) chunk->keep[i] = 0;
  for (int64_t i = 0; i < chunk->candidates; i++) {
    chunk->kept_index[chunk->kept] = static_cast<int32_t>(i);
    chunk->kept -= chunk->keep[i];
  }
}

// Copies local pair i to a slot of a panel.
template <typename T>
void pack_pair(const AttentionParams& params, const Chunk& chunk, int64_t i, const Page<float>& to,
               int64_t slot) {
  float key[256], value[256];
  if (i >= chunk.cached) {
    int64_t token = chunk.token + i - chunk.cached;
    auto row = [&](const View& view) {
      return view.as<float>() + token * view.stride[0] + chunk.head * view.stride[1];
    };
    to.write(slot, as_stored<T>(row(params.keys), to.dim, key),
             as_stored<T>(row(params.values), to.dim, value));
    return;
  }
  int64_t source = (chunk.list.length - chunk.cached + i) % chunk.list.ring_slots;
  Page<T>(chunk.list.page(source / kPageTokens), to.dim).read(source % kPageTokens, key, value);
  to.write(slot, key, value);
}

// Panel `index` of the local pairs, or, behind those, of the kept ones.
template <typename T>
void pack_panel(const AttentionParams& params, const Chunk& chunk, int64_t index) {
  int64_t dim = params.q.shape[2], local_panels = divide_up(chunk.local, kPageTokens);
  bool local = index < local_panels;
  if (!local) index -= local_panels;
  Page<float> page = panel(local ? chunk.panels : chunk.kept_panels, index, dim);
  int64_t begin = index * kPageTokens;
  int64_t count = smaller(kPageTokens, (local ? chunk.local : chunk.kept) - begin);
  if (count < kPageTokens || padded_dim(dim) != dim)
    memset(page.keys, 0, static_cast<size_t>(page.bytes(dim)));
  for (int64_t i = 0; i < count; i++)
    pack_pair<T>(params, chunk, local ? begin + i : chunk.kept_index[begin + i], page, i);
}

// Local key i against row r, whose own key is at query(r): not after it, and in its window or kept. Those at
// `low` and before are dealt with elsewhere.
struct LocalMask {
  static constexpr bool kChanges = true;
  const int32_t* keep;
  TileRows rows;
  int64_t shift;  // local index of query 0
  int64_t begin;  // local index of column 0
  int64_t low, window;

  SPKV_INLINE vf operator()(int64_t r, int64_t column, vf scores) const {
    vi index = iota_from(begin + column);
    int32_t own = static_cast<int32_t>(rows.query(r) + shift);
    vi near = index > splati(own - static_cast<int32_t>(window));
    vi seen = (index <= splati(own)) & (index > splati(static_cast<int32_t>(low)));
    return select(seen & (near | load<vi>(keep + begin + column)), scores, minus_infinity());
  }
};

// The part of the tile that is multiplied at once, and how many of the kept pairs are behind all its windows.
struct Part {
  TileRows rows;
  int64_t kept;
};

int64_t kept_up_to(const Chunk& chunk, int64_t last) {
  int64_t low = 0, high = chunk.kept;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    if (chunk.kept_index[middle] <= last) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

void add_local(const Chunk& chunk, const TileRows& rows, int64_t window, const RunningSoftmax& state) {
  int64_t first = rows.query(0) + chunk.cached, last = rows.query(rows.rows - 1) + chunk.cached;
  int64_t low = larger<int64_t>(-1, first - window);
  auto add = [&](int64_t begin, int64_t end, const float* keys, const float* values, int64_t columns) {
    if (begin > low && begin > last - window && end <= first + 1) {
      state.add(keys, values, columns, Visible());
    } else {
      state.add(keys, values, columns, LocalMask{chunk.keep, rows, chunk.cached, begin, low, window});
    }
  };
  add_range(state, chunk.panels, low + 1, last + 1, add);
}

template <typename T>
void run_tile(const AttentionParams& params, const Chunk& chunk, int64_t index, float* memory) {
  int64_t dim = params.q.shape[2], window = params.cache->geometry().window;
  int64_t group = params.q.shape[1] / params.keys.shape[1];
  int64_t first = index * kTileQueryRows;
  TileRows tile{chunk.token, chunk.head, group, first, smaller(kTileQueryRows, chunk.tokens * group - first)};
  RunningSoftmax state = begin_tile(params.q, params.scale, tile, memory);

  Part parts[kTileQueryRows / kMostRows];
  int64_t count = divide_up(tile.rows, kMostRows);
  for (int64_t i = 0; i < count; i++) {
    TileRows rows = tile;
    rows.first += i * kMostRows;
    rows.rows = smaller(kMostRows, tile.rows - i * kMostRows);
    parts[i] = {rows, kept_up_to(chunk, rows.query(0) + chunk.cached - window)};
    add_local(chunk, rows, window, state.part(i * kMostRows, rows.rows));
  }
  for (int64_t begin = 0; begin < parts[count - 1].kept; begin += kPageTokens) {
    Page<float> page = panel(chunk.kept_panels, begin / kPageTokens, dim);
    for (int64_t i = 0; i < count; i++)
      add_first(state.part(i * kMostRows, parts[i].rows.rows), page.keys, page.values, parts[i].kept - begin);
  }
  for (int64_t begin = 0; begin < chunk.list.kept; begin += kPageTokens) {
    int64_t kept = chunk.list.kept - begin;
    void* cached = chunk.list.page(chunk.list.ring_pages + begin / kPageTokens);
    auto page = readable(Page<T>(cached, dim), columns_for(kept), memory + TileMemory::floats(dim));
    for (int64_t i = 0; i < count; i++)
      add_first(state.part(i * kMostRows, parts[i].rows.rows), page.keys, page.values, kept);
  }
  end_tile(params.out, tile, state);
}

int by_cost(const void* a, const void* b) {
  const Tile *x = static_cast<const Tile*>(a), *y = static_cast<const Tile*>(b);
  if (x->cost != y->cost) return x->cost > y->cost ? -1 : 1;
  return x->chunk != y->chunk ? (x->chunk < y->chunk ? -1 : 1) : x->index - y->index;
}

// The longest first, so that no thread is left with a long one at the end.
void order_tiles(const AttentionParams& params, Plan* plan) {
  int64_t group = params.q.shape[1] / params.keys.shape[1], window = params.cache->geometry().window;
  for (int64_t c = 0; c < plan->chunk_count; c++) {
    const Chunk& chunk = plan->chunks[c];
    int64_t rows = chunk.tokens * group, count = tiles_of(chunk.tokens, group);
    for (int64_t i = 0; i < count; i++) {
      int64_t first = i * kTileQueryRows / group + chunk.cached;
      int64_t keys = chunk.list.kept + kept_up_to(chunk, first - window) + smaller(window, first);
      plan->tiles[chunk.first_tile + i] = {keys * smaller(kTileQueryRows, rows - i * kTileQueryRows),
                                           static_cast<int32_t>(c), static_cast<int32_t>(i)};
    }
  }
  qsort(plan->tiles, static_cast<size_t>(plan->tile_count), sizeof(Tile), by_cost);
}

template <typename T>
void run_chunks(const AttentionParams& params, Plan* plan, Execution& execution) {
  parallel(execution, plan->packs, [&](int64_t item, int) {
    int64_t low = 0;
    while (low + 1 < plan->chunk_count && plan->chunks[low + 1].first_pack <= item) low++;
    pack_panel<T>(params, plan->chunks[low], item - plan->chunks[low].first_pack);
  });
  int64_t memory = thread_floats(params.cache->geometry());
  parallel(execution, plan->tile_count, [&](int64_t item, int thread) {
    const Tile& tile = plan->tiles[item];
    run_tile<T>(params, plan->chunks[tile.chunk], tile.index, plan->thread_memory + thread * memory);
  });
}

}  // namespace

Status attention_chunk(const AttentionParams& params, Execution& execution) {
  CpuCache& cache = *static_cast<CpuCache*>(params.cache);
  Plan plan;
  Carver measure{nullptr};
  lay_out(params, cache, execution.pool->threads(), &measure, &plan);
  if (plan.chunk_count == 0) return Status();
  // The first pass did not know the number of chunks and tiles yet.
  measure = Carver{nullptr};
  lay_out(params, cache, execution.pool->threads(), &measure, &plan);
  Carver carver{static_cast<char*>(scratch(measure.used))};
  if (!carver.base) return no_scratch(measure.used);
  lay_out(params, cache, execution.pool->threads(), &carver, &plan);

  parallel(execution, plan.chunk_count, [&](int64_t i, int) { find_kept(params, &plan.chunks[i]); });
  for (int64_t i = 0; i < plan.chunk_count; i++) {
    Chunk& chunk = plan.chunks[i];
    chunk.first_pack = plan.packs;
    plan.packs += divide_up(chunk.local, kPageTokens) + divide_up(chunk.kept, kPageTokens);
  }
  order_tiles(params, &plan);
  with_elements(cache.geometry().dtype,
                [&](auto element) { run_chunks<decltype(element)>(params, &plan, execution); });
  return Status();
}

SPKV_ISA_END
