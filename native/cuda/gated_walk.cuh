// What a block of gated attention walks. It is found by one thread and lies in shared memory, since registers
// are what these kernels have least of.
#pragma once

#include "cuda/gated_backward.h"
#include "cuda/gated_forward.h"

namespace spkv {
namespace cuda {

// The tiles of keys of a tile of queries.
struct ForwardWalk {
  int token, tokens;  // of the document
  int first;          // query
  int64_t at;         // where the document's lists begin
  int kept, behind;   // keys; where the dropped ones begin in the lists
  int far_tiles, kept_tiles, dropped_tiles;
  int dropped_first;
  bool sorted;

  __device__ __forceinline__ void find(const GatedForward& p, const GatedWork& work, int rows) {
    const KeyLists& lists = p.lists;
    int b = work.item.document;
    token = lists.offsets[b];
    tokens = lists.offsets[b + 1] - token;
    first = (work.item.cost - 1) * rows;
    at = work.kv_head * lists.rows + lists.first(token, b);
    kept = lists.kept[work.kv_head * lists.documents + b];
    behind = KeyLists::filled(kept);
    sorted = kept < tokens;
    const int32_t* rank = lists.rank + at;
    int end = min(first + rows, tokens), window_begin = max(first - p.window + 1, 0);
    int far = rank[window_begin], near = rank[end];
    far_tiles = far / kKeyTile;
    kept_tiles = (near + kKeyTile - 1) / kKeyTile - far_tiles;
    dropped_first = (window_begin - far) / 4 * 4;  // copies begin at multiples of 16 bytes
    int dropped_count = end - near - dropped_first;
    dropped_tiles = end - near > window_begin - far ? (dropped_count + kKeyTile - 1) / kKeyTile : 0;
  }
  __device__ __forceinline__ int compared() const { return kept_tiles + dropped_tiles; }
  __device__ __forceinline__ int tiles() const { return compared() + far_tiles; }
  // Where tile i begins: in the lists, and among the rows of keys.
  __device__ __forceinline__ void begin_of(int i, int64_t* entry, int* row) const {
    if (i >= kept_tiles && i < compared()) {
      int in_dropped = dropped_first + (i - kept_tiles) * kKeyTile;
      *entry = at + behind + in_dropped;
      *row = token + kept + in_dropped;
    } else {
      int tile = i < kept_tiles ? far_tiles + i : i - compared();
      *entry = at + tile * kKeyTile;
      *row = token + tile * kKeyTile;
    }
  }
};

// The keys of a block and the tiles of queries that see them. Lies in shared memory, since registers are what
// these kernels have least of.
struct BackwardWalk {
  int token, tokens;    // of the document
  int64_t entry;        // of the first key in the lists
  int row;              // and among the rows of keys
  int count;            // keys; without any there is nothing to do
  int begin, far, end;  // tiles; from `far` on all keys are behind all windows
  bool sorted;
  int64_t query_row;  // where the document begins in the arrays of queries

  __device__ __forceinline__ void find(const GatedBackward& p, const GatedWork& work, int queries) {
    const KeyLists& lists = p.lists;
    int b = work.item.document;
    token = lists.offsets[b];
    tokens = lists.offsets[b + 1] - token;
    query_row = GatedBackward::first_row(token, b);
    int kept = lists.kept[work.kv_head * lists.documents + b], behind = KeyLists::filled(kept);
    sorted = kept < tokens;
    int first = (KeyLists::filled(tokens) / kKeyTile + lists.extra - work.item.cost) * kKeyTile;
    bool is_kept = first < behind;
    count = min(kKeyTile, is_kept ? kept - first : tokens - kept - (first - behind));
    if (count <= 0) return;
    entry = work.kv_head * lists.rows + lists.first(token, b) + first;
    row = token + (is_kept ? first : kept + first - behind);
    int last_position = lists.position[entry + count - 1];
    int seen = is_kept ? tokens : min(tokens, last_position + p.window);
    begin = lists.position[entry] / queries;
    end = (seen + queries - 1) / queries;
    far = is_kept ? min(end, (last_position + p.window + queries - 1) / queries) : end;
  }
};

}  // namespace cuda
}  // namespace spkv
