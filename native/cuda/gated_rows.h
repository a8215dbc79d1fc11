// What gated attention does row by row around its tiles.
#pragma once

#include "cuda/gated_backward.h"

namespace spkv {
namespace cuda {

// The log_sums and products of a backward, from out, its gradient d_out and log_sum_exp; neutral in rows that
// fill a document's last tile up: they weigh nothing.
struct GatedProducts {
  KeyLists lists;
  GatedRows out, d_out;
  const float* log_sum_exp = nullptr;  // [T, H]
  int64_t log_sum_exp_stride = 0;
  int64_t query_rows = 0;
  float *log_sums = nullptr, *products = nullptr;
  int heads = 0;
  float scale = 1;
};
cudaError_t make_products(const GatedProducts& params, int64_t dim, cudaStream_t stream);

// dq = scale * dq_sums. A tile of gated_step_queries(D) queries has two parts of 64 x 64, the halves of its
// columns where D is 128, else of its queries. A part has eight columns after the other, of these four
// numbers a thread: rows 16 * (thread / 32) + thread % 32 / 4 and 8 below it, columns 2 * (thread % 4) and
// the next.
struct GatedQueryGradients {
  KeyLists lists;
  GatedRows dq;
  const float* dq_sums = nullptr;
  int64_t query_rows = 0;
  int heads = 0;
  float scale = 1;
};
cudaError_t finish_dq(const GatedQueryGradients& params, int64_t dim, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
