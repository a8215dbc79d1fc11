// The keys of a (document, KV head) in the order in which the tiles of gated attention walk them. A key whose
// gate is -infinity is seen by its window only, so the keys are split in two, each part in order of position:
//
//   kept      gate above -infinity     every later query sees them
//   dropped   gate -infinity           the queries up to position + window - 1 see them
//
// Whole tiles of dropped keys are never touched by far queries: work follows the pairs that are there. In
// each array the dropped part begins at a multiple of kKeyTile, and what fills a tile up has position
// kNowhere:
//
//   first(b)      kept ...  | filling |  dropped ...  | filling
//
// Where nothing is dropped, the keys are in their own order, and tiles read the tensors themselves. Otherwise
// the rows are brought into the order first, without filling: kept ones, then dropped ones.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/view.h"

namespace spkv {
namespace cuda {

constexpr int kKeyTile = 128;
constexpr int kNowhere = 1 << 30;  // behind every query

// A tile of queries or keys of a document. Cost 1 is the first tile of queries, and the last one of keys.
struct GatedItem {
  int document, cost;
};

struct KeyLists {
  const int32_t* offsets = nullptr;  // [B + 1], on the device
  int documents = 0;                 // B
  int kv_heads = 0;                  // G
  int64_t rows = 0;                  // of a head in the arrays below
  int32_t* kept = nullptr;           // [G][B] how many
  int32_t* rank = nullptr;           // [G][rows] kept keys before a position, up to that behind the last
  int32_t* position = nullptr;       // [G][rows] in the document
  float* gate = nullptr;             // [G][rows]
  GatedItem* items = nullptr;        // the most expensive first
  int64_t item_count = 0;
  int tile = 0, extra = 0;  // a document of n tokens has ceil(n / tile) + extra items

  // Where a document begins in the arrays of a head.
  __host__ __device__ int64_t first(int64_t offset, int document) const {
    return offset / kKeyTile * kKeyTile + int64_t{document} * 4 * kKeyTile;
  }
  __host__ __device__ static int filled(int kept) { return (kept + kKeyTile - 1) / kKeyTile * kKeyTile; }

  int64_t bytes() const { return kv_heads * (rows * 12 + documents * 4 + 12) + item_count * 8 + 256; }
  // Counts rows and items; `offsets` on the host.
  void measure(const int32_t* host_offsets, int tile_rows, int extra_items);
  // Takes bytes() at `memory`, which is 16-byte aligned.
  void lay_out(uint8_t* memory);
};

// `gates` [T, G] may be absent. They are multiplied by `factor`.
cudaError_t make_key_lists(const KeyLists& lists, const View& gates, float factor, cudaStream_t stream);

// Keys and values [T, G, D] in bf16, rows at multiples of 16 bytes, into the order of the lists. Of lists
// that drop nothing only the first kKeyTile rows are written.
cudaError_t sort_rows(const KeyLists& lists, const View& sorted_keys, const View& sorted_values,
                      const View& keys, const View& values, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
