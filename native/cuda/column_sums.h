// Sums of rows, column by column, in an order that depends on the shapes alone.
#pragma once

#include "core/status.h"
#include "core/view.h"
#include "cuda/context.h"

namespace spkv {
namespace cuda {

// Room for one f32 row of sums per group of rows: [groups, columns]. Null with a status.
float* partial_sums(int64_t groups, int64_t columns, Context& context, Status* status);

// out += the sum of the groups, which have a row of partial [groups, columns] each; out f32, [columns] or a
// matrix of as many elements.
Status add_partial_sums(const View& out, const float* partial, int64_t groups, Context& context);

// out [N] += the sum of the rows of x [T, N], f32 or bf16.
Status add_column_sums(const View& out, const View& x, Context& context);

}  // namespace cuda
}  // namespace spkv
