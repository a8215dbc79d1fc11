// The operations of the CUDA device, one file each; their contracts are in native/ops.
#pragma once

#include "ops/operations.h"

namespace spkv {
namespace cuda {

#define SPKV_ENTRY(name, Params) Status name(const Params& params, Execution& execution);
SPKV_OPERATIONS(SPKV_ENTRY)
#undef SPKV_ENTRY

extern const Operations operations;

}  // namespace cuda
}  // namespace spkv
