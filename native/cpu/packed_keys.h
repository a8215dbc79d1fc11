// Keys and values of a step, packed into f32 panels as in cpu/page.h, and the rows that attend to them.
#pragma once

#include "cpu/attention_paths.h"
#include "cpu/running_softmax.h"

SPKV_ISA_BEGIN

// A tile of query rows is one item of work: [tokens][group] numbered through, kTileQueryRows at a time.
constexpr int64_t kTileQueryRows = 96;
static_assert(kTileQueryRows % kMostRows == 0, "tiles consist of whole parts");

SPKV_INLINE Page<float> panel(float* panels, int64_t index, int64_t dim) {
  return Page<float>(panels + index * (Page<float>::bytes(dim) / 4), dim);
}
SPKV_INLINE int64_t panel_floats(int64_t count, int64_t dim) {
  return divide_up(count, kPageTokens) * (Page<float>::bytes(dim) / 4);
}

// The running softmaxes of one tile, in memory of the thread that works on it.
struct TileMemory {
  static SPKV_INLINE int64_t floats(int64_t dim) {
    return kTileQueryRows * (dim + 16 + kLanes + padded_dim(dim));
  }
  static SPKV_INLINE RunningSoftmax state(float* memory, int64_t rows, int64_t dim) {
    float* q = memory;
    float* top = q + kTileQueryRows * dim;
    float* sums = top + kTileQueryRows * 16;
    return {rows, dim, q, top, sums, sums + kTileQueryRows * kLanes};
  }
};

// Query rows [first, first + rows) of the tokens from `token` on, in KV head `head`.
struct TileRows {
  int64_t token, head, group, first, rows;

  SPKV_INLINE int64_t query(int64_t r) const { return (first + r) / group; }
  SPKV_INLINE int64_t query_head(int64_t r) const { return head * group + (first + r) % group; }
};

// Fills in the queries and clears the rest.
SPKV_INLINE RunningSoftmax begin_tile(const View& q, float scale, const TileRows& tile, float* memory) {
  int64_t dim = q.shape[2];
  RunningSoftmax state = TileMemory::state(memory, tile.rows, dim);
  for (int64_t r = 0; r < tile.rows; r++)
    scale_row(query_row(q, tile.token + tile.query(r), tile.query_head(r)), dim, scale, memory + r * dim);
  state.clear();
  return state;
}

SPKV_INLINE void end_tile(const View& out, const TileRows& tile, const RunningSoftmax& state) {
  for (int64_t r = 0; r < tile.rows; r++)
    state.finish(r, out.as<float>() + (tile.token + tile.query(r)) * out.stride[0] +
                        tile.query_head(r) * out.stride[1]);
}

// Adds keys [from, to) of the panels. They begin at a multiple of 16 below `from` and end at one above `to`:
// adjust(part, first key) gives what is to be done with the scores, which must remove the keys that are not
// wanted.
template <typename Adjust>
SPKV_INLINE void add_range(const RunningSoftmax& state, float* panels, int64_t from, int64_t to,
                           const Adjust& adjust) {
  for (int64_t begin = from / 16 * 16; begin < to;) {
    int64_t column = begin % kPageTokens;
    int64_t columns = smaller(kPageTokens - column, (to - begin + 15) / 16 * 16);
    Page<float> page = panel(panels, begin / kPageTokens, state.dim);
    adjust(begin, begin + columns, page.keys + column, page.values + column * padded_dim(state.dim), columns);
    begin += columns;
  }
}

SPKV_ISA_END
