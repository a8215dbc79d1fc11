// Attention over whole documents with a gate per key, on the CPU: the same tiles of queries and panels of
// keys as in cpu/attention_chunk.cc, with every earlier key of the document.
#include "ops/gated_attention.h"

#include "cpu/documents.h"
#include "cpu/packed_keys.h"

SPKV_ISA_BEGIN
namespace {

// One (document, KV head). Keys are counted from the document's first.
struct Document {
  int64_t token, tokens, head;
  float* panels;  // [tokens]
  float* gates;   // [tokens, rounded up to a page] or null
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
      Document document = {offsets[b], tokens, head, nullptr, nullptr, plan->packs, plan->tiles};
      int64_t panels = divide_up(tokens, kPageTokens);
      document.panels = carver->take<float>(panel_floats(tokens, dim));
      if (params.gates) document.gates = carver->take<float>(panels * kPageTokens);
      if (plan->documents) plan->documents[plan->count] = document;
      plan->count++;
      plan->packs += panels;
      plan->tiles += divide_up(tokens * group, kTileQueryRows);
    }
  }
}

void pack_panel(const GatedAttentionParams& params, const Document& document, int64_t index) {
  const View &k = params.keys, &v = params.values, &gates = params.gates;
  int64_t dim = params.q.shape[2], begin = index * kPageTokens;
  int64_t count = smaller(kPageTokens, document.tokens - begin), token = document.token + begin;
  Page<float> page = panel(document.panels, index, dim);
  if (count < kPageTokens || padded_dim(dim) != dim)
    memset(page.keys, 0, static_cast<size_t>(page.bytes(dim)));
  for (int64_t i = 0; i < count; i++) {
    page.write(i, k.as<float>() + (token + i) * k.stride[0] + document.head * k.stride[1],
               v.as<float>() + (token + i) * v.stride[0] + document.head * v.stride[1]);
  }
  if (!gates) return;
  for (int64_t i = 0; i < kPageTokens; i++) {
    document.gates[begin + i] =
        i < count ? gates.as<float>()[(token + i) * gates.stride[0] + document.head * gates.stride[1]] : 0.0f;
  }
}

// Adds the gates of keys outside of the window and removes those after the query.
struct GateScores {
  static constexpr bool kChanges = true;
  const float* gates;  // null: all 0
  TileRows rows;
  int64_t begin, window;

  SPKV_INLINE vf operator()(int64_t r, int64_t column, vf scores) const {
    int32_t own = static_cast<int32_t>(rows.query(r));
    vi index = iota_from(begin + column);
    if (gates) {
      vi near = index > splati(own - static_cast<int32_t>(smaller<int64_t>(window, INT32_MAX)));
      scores = select(near, scores, scores + loadf(gates + begin + column));
    }
    return select(index <= splati(own), scores, minus_infinity());
  }
};

// All keys are outside of all windows.
struct AddGates {
  static constexpr bool kChanges = true;
  const float* gates;
  SPKV_INLINE vf operator()(int64_t, int64_t column, vf scores) const {
    return scores + loadf(gates + column);
  }
};

void add_part(const Document& document, const TileRows& rows, int64_t window, const RunningSoftmax& state) {
  int64_t first = rows.query(0), last = rows.query(rows.rows - 1);
  auto add = [&](int64_t begin, int64_t end, const float* keys, const float* values, int64_t columns) {
    bool before = end <= first + 1;
    if (before && (!document.gates || begin > last - window)) {
      state.add(keys, values, columns, Visible());
    } else if (before && end - 1 <= first - window) {
      state.add(keys, values, columns, AddGates{document.gates + begin});
    } else {
      state.add(keys, values, columns, GateScores{document.gates, rows, begin, window});
    }
  };
  add_range(state, document.panels, 0, last + 1, add);
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
    add_part(document, rows, params.window, state.part(i, rows.rows));
  }
  end_tile(params.out, tile, state);
  const View& sums = params.log_sum_exp;
  for (int64_t r = 0; r < tile.rows && sums; r++)
    sums.as<float>()[(tile.token + tile.query(r)) * sums.stride[0] + tile.query_head(r)] =
        state.top[r] + static_cast<float>(__builtin_log(state.lane_sum(r)));
}

// The entry whose range of items, which begins at entry.*first, has the item.
const Document& document_of(const Plan& plan, int64_t Document::*first, int64_t item) {
  int64_t low = 0, high = plan.count;
  while (low + 1 < high) {
    int64_t middle = (low + high) / 2;
    (plan.documents[middle].*first <= item ? low : high) = middle;
  }
  return plan.documents[low];
}

}  // namespace

Status gated_attention(const GatedAttentionParams& params, Execution& execution) {
  SPKV_RETURN_IF_ERROR(check_offsets(params.offsets, params.q.shape[0]));
  int threads = execution.pool->threads();
  Plan plan;
  Carver measure{nullptr};
  lay_out(params, threads, &measure, &plan);
  Carver carver{static_cast<char*>(scratch(measure.used))};
  if (!carver.base) return no_scratch(measure.used);
  lay_out(params, threads, &carver, &plan);
  parallel(execution, plan.packs, [&](int64_t item, int) {
    const Document& document = document_of(plan, &Document::first_pack, item);
    pack_panel(params, document, item - document.first_pack);
  });
  int64_t memory = TileMemory::floats(params.q.shape[2]);
  // Backwards: the last tiles of a document are the longest.
  parallel(execution, plan.tiles, [&](int64_t item, int thread) {
    int64_t tile = plan.tiles - 1 - item;
    const Document& document = document_of(plan, &Document::first_tile, tile);
    run_tile(params, document, tile - document.first_tile, plan.thread_memory + thread * memory);
  });
  return Status();
}

SPKV_ISA_END
