// The plan of a decode step: one launch at its start, for all layers.
//
// In every layer the items of the step, (batch row b, KV head g) as b * G + g, lie one after another on a
// line of units. A unit is a page to read; an item without any has one empty unit, so that it gets its
// output:
//
//   item       0            1      2 ...
//   units   [r r k k k k] [r r] [r r k] ...     r: a page of the ring, k: of kept pairs
//   blocks  |  0  |   1   |   2   | ...         block c reads units [c * P / n, (c + 1) * P / n)
//
// with P units and n = min(P, blocks) blocks. So every block reads the same number of pages, whatever the
// lengths, and an item may lie in several blocks. (Small parts at the end of the line for whoever is done
// first were tried: merging them costs more than the SMs' unequal shares of the bandwidth.)
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/cache_state.h"

namespace spkv {
namespace cuda {

struct ItemPlan {
  int32_t first_unit;
  int32_t units;
  int32_t kept;         // N
  int32_t length;       // T, without the step's new token
  int32_t hidden_slot;  // ring slot of a pair that is out of the window and not kept, or -1
  int32_t sequence;
  int32_t leaves;  // whether a kept pair leaves the window at the end of this step
  int32_t rank;    // among the lists of the layer that need a page for it, or -1
};

struct BlockPlan {
  int32_t begin, end;  // units
  int32_t item;        // that `begin` lies in
  int32_t total;       // P
  ItemPlan first;      // a copy of that item: one wait less at the start
};

struct StepPlan {
  int32_t batch = 0;
  int32_t blocks = 0;
  ItemPlan* items = nullptr;         // [layers][batch * G]
  BlockPlan* block_plans = nullptr;  // [layers][blocks]
  int32_t* needs = nullptr;          // [layers] pages
  int32_t* free_top = nullptr;       // [1] free pages at the start of the step
};

struct StepPlanParams {
  CacheState cache;
  StepPlan plan;
  const int32_t* slots;  // [B], all different
};

cudaError_t plan_step(const StepPlanParams& params, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
