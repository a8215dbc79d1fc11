// What a tile of prefill attention is: rows of queries, and the pages that they walk.
//
// A tile is a number of rows of [tokens of a sequence][group], numbered through, so that a group's heads
// share every key that is loaded. Tiles are numbered so that the late ones of a sequence, which have the most
// keys, come first, and the KV heads of the same rows one after another.
#pragma once

#include "cuda/common/page.cuh"
#include "cuda/prefill_chunk.cuh"

namespace spkv {
namespace cuda {

// Rows [first, first + count) of [tokens of a sequence][group].
struct TileRows {
  int first, count, group;
  int first_token, first_head;

  __device__ int query(int row) const { return (first + (row < count ? row : count - 1)) / group; }
  // The row's numbers in a tensor [T][H][D].
  __device__ float* of(const Rows& tensor, int row) const {
    return tensor.row(first_token + (first + row) / group, first_head + (first + row) % group);
  }
};

// Which pairs of a page are seen: those not after the row's own pair that are kept or in its window. `first`
// is the local index of the page's first pair; of pages behind the local ones it lies behind all windows.
struct PageMask {
  uint64_t keep;
  int32_t first;
  int32_t non_finite;  // as in LocalPage

  static constexpr int32_t kBehind = -(1 << 30);

  // `own` is the local index of the row's own pair.
  __device__ __forceinline__ uint64_t visible(int own, int window) const {
    int at = own - first;
    return bit_range(0, at + 1) & (keep | bit_range(at - window + 1, kPageSlots));
  }
};

// The pages that a tile walks: local ones, closed ones, cached ones. Lies in shared memory, since registers
// are what these kernels have least of.
template <int kDim>
struct Walk {
  static constexpr int kPageBytes = page_bytes(kDim);
  int pages;
  int first_local, locals, local_pairs;
  int closeds, closed_pairs;
  int cached_pairs;
  int behind;       // kept local pairs up to this one are among the closed ones
  int local_page;   // in PrefillStep::local_pages, the first to be walked; the next is kv_heads further on
  int closed_page;  // in PrefillStep::closed_pages, likewise
  const int32_t* cached;  // ids of the cached pages

  // For rows whose own pairs are [first_own, last_own].
  __device__ void begin(const PrefillStep& step, const Chunk& chunk, int first_own, int last_own) {
    const CacheState& cache = step.cache;
    cached = chunk.kept_ids;
    // The first local pair that is in the window of some query; those before are behind all windows.
    behind = first_own - cache.window;
    int begin = behind >= 0 ? behind + 1 : 0;
    first_local = begin / kPageSlots;
    locals = last_own / kPageSlots + 1 - first_local;
    local_pairs = chunk.local_pairs();
    local_page = chunk.local_page + first_local * cache.kv_heads;
    closed_page = chunk.closed_page;
    const LocalPage& page = step.local_info[local_page];
    closed_pairs = page.kept_before + __popcll(page.keep & bit_range(0, begin % kPageSlots));
    closeds = (closed_pairs + kPageSlots - 1) / kPageSlots;
    cached_pairs = cache.kept[chunk.list];
    pages = locals + closeds + (cached_pairs + kPageSlots - 1) / kPageSlots;
  }

  __device__ __forceinline__ const uint8_t* address(const PrefillStep& step, int i) const {
    if (i >= pages) return nullptr;
    int heads = step.cache.kv_heads;
    if (i < locals) return step.local_pages + int64_t{local_page + i * heads} * kPageBytes;
    if (i < locals + closeds)
      return step.closed_pages + int64_t{closed_page + (i - locals) * heads} * kPageBytes;
    return step.kept_pool() + int64_t{__ldg(cached + i - locals - closeds)} * kPageBytes;
  }
  // How many pairs are in the page; at least 64 for a full one.
  __device__ __forceinline__ int pairs(int i) const {
    if (i < locals) return local_pairs - (first_local + i) * kPageSlots;
    if (i < locals + closeds) return closed_pairs - (i - locals) * kPageSlots;
    return cached_pairs - (i - locals - closeds) * kPageSlots;
  }
  __device__ __forceinline__ PageMask mask_of(const PrefillStep& step, int i) const {
    if (i >= locals) return {bit_range(0, pairs(i)), PageMask::kBehind, 0};
    int first = (first_local + i) * kPageSlots;
    const LocalPage& page = step.local_info[local_page + i * step.cache.kv_heads];
    return {page.keep & bit_range(behind + 1 - first, kPageSlots), first, page.non_finite};
  }

  // Whether every row sees all pairs of pages i and i + 1, as far as that can be told without their masks:
  // they lie behind the local ones, and are not the last of their kind, which can be parts of pages.
  __device__ __forceinline__ bool all_seen(int i) const {
    int last_closed = locals + closeds - 1;
    return i >= locals && (i > last_closed || i + 1 < last_closed) && i + 1 < pages - 1;
  }

  // Calls mark(n, j) for each of the thread's components 8n + 2 (lane % 4) + j of which the row with this own
  // pair sees a value that is not finite. Local pages have 0 in place of such values, because a weight of 0
  // does not silence them.
  template <typename Mark>
  __device__ __forceinline__ void find_non_finite(const PrefillStep& step, int own, const Mark& mark) const {
    for (int i = 0; i < locals; i++) {
      PageMask page = mask_of(step, i);
      if (!page.non_finite) continue;
      uint64_t visible = page.visible(own, step.cache.window);
      const uint64_t* slots =
          step.non_finite + int64_t{local_page + i * step.cache.kv_heads} * kDim + threadIdx.x % 4 * 2;
#pragma unroll
      for (int n = 0; n < kDim / 8; n++) {
#pragma unroll
        for (int j = 0; j < 2; j++)
          if (slots[8 * n + j] & visible) mark(n, j);
      }
    }
  }
};

template <int kDim>
struct PrefillItem {
  TileRows rows;
  Walk<kDim> walk;
  int first_own;  // local index of the pair of the sequence's first new token

  __device__ int own(int row) const { return first_own + rows.query(row); }

  // Tile `item` of `items`, of up to `most_rows` rows. Not every one has rows.
  __device__ bool begin(const PrefillStep& step, int item, int items, int most_rows) {
    int heads = step.cache.kv_heads, head = item % heads, index = (items - 1 - item) / heads;
    auto first_tile = [&](int b) { return step.offsets[b] * step.group / most_rows + b; };
    int b = find_sequence(step.batch, index, first_tile);
    Chunk chunk(step, b, head);
    int first = (index - first_tile(b)) * most_rows, left = chunk.tokens * step.group - first;
    if (left <= 0) return false;
    rows = {first, left < most_rows ? left : most_rows, step.group, chunk.first_token, head * step.group};
    first_own = chunk.ring;
    walk.begin(step, chunk, own(0), own(most_rows - 1));
    return true;
  }
};

}  // namespace cuda
}  // namespace spkv
