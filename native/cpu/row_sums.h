// Sums over the rows of a matrix, such as the gradient of a weight that all rows share: in an order that
// depends on the shape alone, whatever the threads do.
#pragma once

#include "cpu/rows.h"
#include "cpu/scratch.h"

SPKV_ISA_BEGIN

// Rows are cut into blocks of equal height, at most kMostBlocks.
struct RowBlocks {
  static constexpr int64_t kMostBlocks = 64, kLeastHeight = 16;
  int64_t rows, height, count;

  explicit RowBlocks(int64_t row_count)
      : rows(row_count),
        height(larger(kLeastHeight, divide_up(row_count, kMostBlocks))),
        count(divide_up(row_count, height)) {}
};

// Calls body(begin, end, sums, own) for every block of rows; `sums` are `width` zeros to be added to, `own`
// are `extra` floats of memory for the block. Then adds up the sums of all blocks: `total` holds them, until
// memory is asked for again.
template <typename Body>
Status sum_over_rows(Execution& execution, int64_t rows, int64_t width, int64_t extra, const float** total,
                     const Body& body) {
  const RowBlocks blocks(rows);
  const int64_t floats = divide_up(width + extra, 16) * 16;
  const int64_t bytes = larger<int64_t>(blocks.count, 1) * floats * 4;
  float* memory = static_cast<float*>(scratch(bytes));
  if (!memory) return no_scratch(bytes);
  if (blocks.count == 0) memset(memory, 0, static_cast<size_t>(width) * sizeof(float));
  parallel(execution, blocks.count, [&](int64_t block, int) {
    float* sums = memory + block * floats;
    memset(sums, 0, static_cast<size_t>(width) * sizeof(float));
    body(block * blocks.height, smaller(rows, (block + 1) * blocks.height), sums, sums + width);
  });
  for_rows(execution, divide_up(width, kLanes), blocks.count * kLanes, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kLanes, count = smaller(end * kLanes, width) - first;
    for (int64_t block = 1; block < blocks.count; block++) {
      const float* sums = memory + block * floats + first;
      for_lanes(count, [&](int64_t i, auto lanes) {
        write(memory + first + i, read(memory + first + i, lanes) + read(sums + i, lanes), lanes);
      });
    }
  });
  *total = memory;
  return Status();
}

// out += x
inline void add_to(float* out, const float* x, int64_t n) {
  for_lanes(n,
            [&](int64_t i, auto lanes) { write(out + i, read(out + i, lanes) + read(x + i, lanes), lanes); });
}

SPKV_ISA_END
