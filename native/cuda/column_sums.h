// Sums of rows, column by column, in an order that depends on the shapes alone.
#pragma once

#include "core/status.h"
#include "core/view.h"
#include "cuda/context.h"

namespace spkv {
namespace cuda {

// Room for one f32 row of sums per group of rows: [groups, columns]. Null with a status.
float* partial_sums(int64_t groups, int64_t columns, Context& context, Status* status);

// out[c] += sum over the groups of partial[group * stride + c].
Status add_partial_sums(float* out, const float* partial, int64_t groups, int64_t stride, int64_t columns,
                        Context& context);

// out[c] += the sum of x[:, c], x [T, N] f32 or bf16.
Status add_column_sums(float* out, const View& x, Context& context);

}  // namespace cuda
}  // namespace spkv
