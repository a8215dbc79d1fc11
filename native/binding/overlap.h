// Whether two tensors share memory.
#pragma once

#include "core/view.h"

namespace spkv {
namespace binding {

// Same elements in the same order.
bool same_view(const View& a, const View& b);

// Whether an element of one lies on an element of the other: exact where the two have the same strides, as
// views of one tensor have; of others, whether the memory between first and last element meets.
bool overlap(const View& a, const View& b);

}  // namespace binding
}  // namespace spkv
