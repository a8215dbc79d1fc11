// Whether the logits [T, V] of a step are numbers; the first that is not raises a fault. Of several faults
// the one of the oldest site is told: where pairs of the step are no numbers either, theirs, which names the
// layer.
#pragma once

#include "cuda/context.h"

namespace spkv {
namespace cuda {

Status check_logits(const View& logits, Context& on);

}  // namespace cuda
}  // namespace spkv
