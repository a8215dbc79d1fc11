// Attention over whole documents with a gate per key, on the CPU: the tiles of queries and panels of keys of
// cpu/attention_chunk.cc. Keys in the window come from panels of all keys, older ones from panels of those
// that the gates have not removed.
#include "ops/gated_attention.h"

#include "core/step_checks.h"
#include "cpu/kept_keys.h"
#include "cpu/packed_keys.h"

SPKV_ISA_BEGIN
namespace {

// One (document, KV head). Keys are counted from the document's first.
struct Document {
  int64_t token, tokens, head;
  float* panels;       // of all keys
  KeptKeys kept;       // without gates there are none, and the window has no end
  float* kept_panels;  // of them
  int64_t first_pack, first_tile;
};

struct Plan {
  Document* documents = nullptr;
  float* thread_memory = nullptr;
  int64_t count = 0, packs = 0, tiles = 0;
};

// Called twice: to learn how much memory is needed (the carver's base is null), and to lay it out.
void lay_out(const GatedAttentionParams& params, int threads, Carver* carver, Plan* plan) {
  const int32_t* offsets = params.offsets.as<int32_t>();
  int64_t heads = params.keys.shape[1], dim = params.q.shape[2], group = params.q.shape[1] / heads;
  plan->documents = carver->take<Document>((params.offsets.shape[0] - 1) * heads);
  plan->thread_memory = carver->take<float>(threads * TileMemory::floats(dim));
  plan->count = plan->packs = plan->tiles = 0;
  for (int64_t b = 0; b + 1 < params.offsets.shape[0]; b++) {
    int64_t tokens = offsets[b + 1] - offsets[b];
    if (tokens == 0) continue;
    for (int64_t head = 0; head < heads; head++) {
      Document document = {offsets[b], tokens, head, nullptr, {}, nullptr, plan->packs, plan->tiles};
      document.panels = carver->take<float>(panel_floats(tokens, dim));
      if (params.gates) {
        document.kept = KeptKeys::carve(carver, tokens);
        document.kept_panels = carver->take<float>(panel_floats(tokens, dim));
      }
      if (plan->documents) plan->documents[plan->count] = document;
      plan->count++;
      plan->packs += (params.gates ? 2 : 1) * divide_up(tokens, kPageTokens);
      plan->tiles += divide_up(tokens * group, kTileQueryRows);
    }
  }
}

// Panel `index` of `count` keys: those at `positions`, or without them one after another.
void pack_panel(const GatedAttentionParams& params, const Document& document, float* panels, int64_t index,
                int64_t count, const int32_t* positions) {
  const View &k = params.keys, &v = params.values;
  int64_t dim = params.q.shape[2], begin = index * kPageTokens, present = smaller(kPageTokens, count - begin);
  if (present <= 0) return;
  Page<float> page = panel(panels, index, dim);
  if (present < kPageTokens || padded_dim(dim) != dim)
    memset(page.keys, 0, static_cast<size_t>(page.bytes(dim)));
  for (int64_t i = 0; i < present; i++) {
    int64_t token = document.token + (positions ? positions[begin + i] : begin + i);
    page.write(i, query_row(k, token, document.head), query_row(v, token, document.head));
  }
}

void pack(const GatedAttentionParams& params, const Document& document, int64_t index) {
  int64_t panels = divide_up(document.tokens, kPageTokens);
  if (index < panels) {
    pack_panel(params, document, document.panels, index, document.tokens, nullptr);
  } else {
    pack_panel(params, document, document.kept_panels, index - panels, document.kept.count,
               document.kept.positions);
  }
}

// Keys of the window: those before the query, but no more than `window`.
struct InWindow {
  static constexpr bool kChanges = true;
  TileRows rows;
  int64_t begin;
  int32_t window;

  SPKV_INLINE vf operator()(int64_t r, int64_t column, vf scores) const {
    int32_t own = static_cast<int32_t>(rows.query(r));
    vi index = iota_from(begin + column);
    return select((index <= splati(own)) & (index > splati(own - window)), scores, minus_infinity());
  }
};

// Kept keys, of which some may still be in the window of a query.
struct BehindWindow {
  static constexpr bool kChanges = true;
  const KeptKeys& kept;
  TileRows rows;
  int64_t begin;
  int32_t window;

  SPKV_INLINE vf operator()(int64_t r, int64_t column, vf scores) const {
    int32_t newest = static_cast<int32_t>(rows.query(r)) - window;
    vi positions = load<vi>(kept.positions + begin + column);
    return select(positions <= splati(newest), scores + loadf(kept.gates + begin + column), minus_infinity());
  }
};

// Kept keys that are outside of all windows.
struct AddGates {
  static constexpr bool kChanges = true;
  const float* gates;
  SPKV_INLINE vf operator()(int64_t, int64_t column, vf scores) const {
    return scores + loadf(gates + column);
  }
};

void add_part(const Document& document, const TileRows& rows, int32_t window, const RunningSoftmax& state) {
  const KeptKeys& kept = document.kept;
  int64_t first = rows.query(0), last = rows.query(rows.rows - 1), start = 0;
  if (document.kept_panels) {
    int64_t behind_all = kept.before(first - window + 1);
    auto add_kept = [&](int64_t begin, int64_t end, const float* keys, const float* values, int64_t columns) {
      if (end <= behind_all) {
        state.add(keys, values, columns, AddGates{kept.gates + begin});
      } else {
        state.add(keys, values, columns, BehindWindow{kept, rows, begin, window});
      }
    };
    add_range(state, document.kept_panels, 0, kept.before(last - window + 1), add_kept);
    start = larger<int64_t>(0, first - window + 1);
  }
  auto add = [&](int64_t begin, int64_t end, const float* keys, const float* values, int64_t columns) {
    if (end <= first + 1 && begin > last - window) {
      state.add(keys, values, columns, Visible());
    } else {
      state.add(keys, values, columns, InWindow{rows, begin, window});
    }
  };
  add_range(state, document.panels, start, last + 1, add);
}

void run_tile(const GatedAttentionParams& params, const Document& document, int64_t index, float* memory) {
  int64_t group = params.q.shape[1] / params.keys.shape[1], first = index * kTileQueryRows;
  TileRows tile{document.token, document.head, group, first,
                smaller(kTileQueryRows, document.tokens * group - first)};
  RunningSoftmax state = begin_tile(params.q, params.scale, tile, memory);
  for (int64_t i = 0; i < tile.rows; i += kMostRows) {
    TileRows rows = tile;
    rows.first += i;
    rows.rows = smaller(kMostRows, tile.rows - i);
    int32_t window = params.gates ? static_cast<int32_t>(params.window) : INT32_MAX;
    add_part(document, rows, window, state.part(i, rows.rows));
  }
  end_tile(params.out, tile, state);
  const View& sums = params.log_sum_exp;
  for (int64_t r = 0; r < tile.rows && sums; r++)
    sums.as<float>()[(tile.token + tile.query(r)) * sums.stride[0] + tile.query_head(r)] =
        state.top[r] + static_cast<float>(__builtin_log(state.lane_sum(r)));
}

}  // namespace

Status gated_attention(const GatedAttentionParams& params, Execution& execution) {
  SPKV_RETURN_IF_ERROR(
      check_offsets(params.offsets.as<int32_t>(), params.offsets.shape[0] - 1, params.q.shape[0]));
  int threads = execution.pool->threads();
  Plan plan;
  Carver measure{nullptr};
  lay_out(params, threads, &measure, &plan);
  Carver carver{static_cast<char*>(scratch(measure.used))};
  if (!carver.base) return no_scratch(measure.used);
  lay_out(params, threads, &carver, &plan);
  if (params.gates) {
    parallel(execution, plan.count, [&](int64_t item, int) {
      Document& document = plan.documents[item];
      document.kept.list(params.gates, document.token, document.tokens, document.head);
    });
  }
  parallel(execution, plan.packs, [&](int64_t item, int) {
    const Document& document = entry_of(plan.documents, plan.count, &Document::first_pack, item);
    pack(params, document, item - document.first_pack);
  });
  int64_t memory = TileMemory::floats(params.q.shape[2]);
  // Backwards: the last tiles of a document are the longest.
  parallel(execution, plan.tiles, [&](int64_t item, int thread) {
    int64_t tile = plan.tiles - 1 - item;
    const Document& document = entry_of(plan.documents, plan.count, &Document::first_tile, tile);
    run_tile(params, document, tile - document.first_tile, plan.thread_memory + thread * memory);
  });
  return Status();
}

SPKV_ISA_END
