// Compacted insertion of any number of new tokens per sequence, in pages of any form that may be shared. The
// CUDA form of ops/insert.h for all steps that decode_insert does not take:
//
//   count   per list, the kept pairs that leave the window and the pages that they need; an entry of its row
//           whose page is to be written and has other owners is given up: it becomes ~page, for `copy`
//   admit   adds the needs up; too few pages: a fault, and the entries are as before
//   copy    fills the entries that were given up with copies; before anybody writes to the originals
//   write   appends the pairs that leave, then writes the ring
#pragma once

#include "cuda/new_pairs.h"

namespace spkv {
namespace cuda {

// One list of the step, (layer, batch row, KV head) as (layer * B + b) * G + g.
struct ListPlan {
  int32_t length;   // T
  int32_t kept;     // N
  int32_t leaving;  // kept pairs that leave the window
  int32_t copies;   // of shared pages
  int32_t needed;   // pages, the copies included
  int32_t first;    // how many the lists before this one take
};

struct InsertListsParams {
  CacheState cache;
  NewPairs pairs;
  InsertFaults faults;
  int32_t batch = 0;
  const int32_t* slots = nullptr;    // [B]
  const int32_t* offsets = nullptr;  // [B + 1]
  bool shared = false;               // whether any page may have several owners
  ListPlan* plans = nullptr;         // [L * B * G]
  int32_t* free_top = nullptr;       // [1] free pages at the start
};

cudaError_t insert_lists(const InsertListsParams& params, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
