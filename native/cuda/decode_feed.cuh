// The two warps that feed a block of decode attention.
#pragma once

#include "cuda/decode_block.cuh"

namespace spkv {
namespace cuda {

// Where the look-up of pages has got to: an item that the next unit lies in, or begins right behind.
struct Cursor {
  int item, first_unit, units, length, kept, sequence;

  __device__ __forceinline__ Cursor(int index, const ItemPlan& plan)
      : item(index),
        first_unit(plan.first_unit),
        units(plan.units),
        length(plan.length),
        kept(plan.kept),
        sequence(plan.sequence) {}

  __device__ __forceinline__ int end() const { return first_unit + units; }

  // Lane `lane`'s.
  __device__ __forceinline__ Cursor of_lane(int lane) const {
    Cursor other = *this;
    other.item = __shfl_sync(~0u, item, lane);
    other.first_unit = __shfl_sync(~0u, first_unit, lane);
    other.units = __shfl_sync(~0u, units, lane);
    other.length = __shfl_sync(~0u, length, lane);
    other.kept = __shfl_sync(~0u, kept, lane);
    other.sequence = __shfl_sync(~0u, sequence, lane);
    return other;
  }
};

// The item of each lane's unit, the units being 32 in a row and the first of them in items `first` or behind.
// As every item has a unit, 32 items are enough to look at.
__device__ __forceinline__ Cursor find_items(const DecodeAttentionParams& p, int first, int unit) {
  int index = first + threadIdx.x % 32;
  ItemPlan plan = {};
  plan.first_unit = INT_MAX;
  if (index < p.plan.batch * p.cache.kv_heads) plan = read_item(layer_items(p) + index);
  int at = 0;  // the last of the items that does not start behind the unit
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    int start = __shfl_sync(~0u, plan.first_unit, at + step);
    if (start <= unit) at += step;
  }
  return Cursor(index, plan).of_lane(at);
}

// What a lane knows of its unit: where the page is and how many rows of it count.
struct PageLookup {
  int64_t page = 0;
  int rows = 0;
};

// Lane i looks up unit `first` + i of the layer, up to `end`.
__device__ __forceinline__ PageLookup look_up(const DecodeAttentionParams& p, int first, int end,
                                              Cursor* cursor) {
  int unit = first + threadIdx.x % 32;
  Cursor mine = *cursor;
  if (min(first + 32, end) > cursor->end()) {
    mine = find_items(p, cursor->item + (first >= cursor->end()), unit);
    *cursor = mine.of_lane(31);
  }
  PageLookup result;
  if (unit >= end) return result;
  Units units(mine.length, mine.kept, p.cache);
  result.rows = units.rows(unit - mine.first_unit);
  int64_t list = p.cache.list(p.layer, mine.sequence, mine.item % p.cache.kv_heads);
  if (result.rows > 0)
    result.page =
        p.cache.table[list * p.cache.table_pages + units.table_index(unit - mine.first_unit, p.cache)];
  return result;
}

// Streams the pages of the block through the stages. They are looked up 32 at a time and 32 ahead, so that
// nothing waits for the plan or the table after the start.
template <typename Config>
__device__ __forceinline__ void feed_pages(const DecodeAttentionParams& p, const BlockPlan& block,
                                           BlockMemory<Config>* memory) {
  using Form = typename Config::Form;
  uint64_t policy = evict_first_policy();
  RingPosition<Config::kStages> at;
  Cursor cursor(block.item, block.first);
  PageLookup next = look_up(p, block.begin, block.end, &cursor);
  for (int first = block.begin; first < block.end; first += 32) {
    PageLookup now = next;
    if (first + 32 < block.end) next = look_up(p, first + 32, block.end, &cursor);
    int count = min(32, block.end - first);
    for (int i = 0; i < count; i++) {
      int64_t page = __shfl_sync(~0u, now.page, i);
      int rows = __shfl_sync(~0u, now.rows, i);
      if (threadIdx.x % 32 == 0) {
        uint32_t full = shared_address(&memory->page_full[at.index]);
        barrier_wait(shared_address(&memory->page_empty[at.index]), at.phase ^ 1);
        const uint8_t* from = p.cache.pool + page * Form::kPageBytes;
        uint32_t to = shared_address(memory->stages[at.index]);
        if (rows == kPageSlots) {
          barrier_arrive_expect(full, Form::kPageBytes);
          bulk_copy(to, from, Form::kPageBytes, full, policy);
        } else if (rows > 0) {
          constexpr int kTail = Form::kPanels * kPanelBytes;
          barrier_arrive_expect(full, Form::kPanels * rows * kRowBytes + Form::kTailBytes);
          for (int panel = 0; panel < Form::kPanels; panel++)
            bulk_copy(to + panel * kPanelBytes, from + panel * kPanelBytes, rows * kRowBytes, full, policy);
          if (Form::kTailBytes > 0) bulk_copy(to + kTail, from + kTail, Form::kTailBytes, full, policy);
        } else {
          barrier_arrive(full);
        }
      }
      at.advance();
    }
  }
}

// Streams the items' plans, queries and new pairs into the slots.
template <typename Config>
__device__ __forceinline__ void feed_items(const DecodeAttentionParams& p, const BlockPlan& block,
                                           BlockMemory<Config>* memory) {
  constexpr int kRow = Config::kDim * 2, kPairRow = Config::Form::kNewRowBytes;
  int lane = threadIdx.x % 32, group = p.heads / p.cache.kv_heads, unit = block.begin;
  RingPosition<kItemSlots> at;
  for (int index = block.item; unit < block.end; index++) {
    ItemPlan item = index == block.item ? block.first : read_item(layer_items(p) + index);
    int b = index / p.cache.kv_heads, head = index % p.cache.kv_heads;
    bool whole_start = fragment_begin(block, item) == 0;
    ItemSlot<Config>* slot = &memory->items[at.index];
    uint32_t full = shared_address(&memory->item_full[at.index]);
    if (lane == 0) {
      barrier_wait(shared_address(&memory->item_empty[at.index]), at.phase ^ 1);
      slot->plan = item;
      barrier_arrive_expect(full, group * kRow + (whole_start ? 2 * kPairRow : 0));
    }
    __syncwarp();
    int64_t pair = b * p.kv_stride + static_cast<int64_t>(head) * kPairRow;
    if (lane < group)
      bulk_copy(shared_address(slot->q[lane]),
                p.q + b * p.q_stride + static_cast<int64_t>(head * group + lane) * Config::kDim, kRow, full);
    if (whole_start && (lane == 16 || lane == 17)) {
      const void* rows = lane == 16 ? p.keys : p.values;
      bulk_copy(shared_address(lane == 16 ? slot->key : slot->value),
                static_cast<const uint8_t*>(rows) + pair, kPairRow, full);
    }
    unit = item.first_unit + item.units;
    at.advance();
  }
}

}  // namespace cuda
}  // namespace spkv
