// The backward of the matrix product, see ops/matmul.h.
//
// Both gradients are products of two row-major matrices, out (+)= a b, where a may have to be read along its
// columns. The output is cut into blocks of rows and ranges of panels of 64 columns, which the threads take,
// and each goes through the depth in steps: a piece of a panel is copied into the second-level cache and all
// rows of the block pass over it. Sums wait in `out` between the steps, so their order is that of one loop
// over the depth.
#include "cpu/microkernel_transposed.h"
#include "cpu/rows.h"

SPKV_ISA_BEGIN
namespace {

constexpr int64_t kHeight = 192, kDepth = 256, kPanel = 64;

// out[rows, columns] (+)= sum over k of a[row, k] b[k, column]
struct Product {
  View out, a, b;
  bool transposed;  // a holds [depth, rows]
  bool accumulate;
  int64_t depth;
};

struct Memory {
  alignas(64) float a[kDepth * kHeight];
  alignas(64) float panel[kDepth * kPanel];
  alignas(64) float out[kHeight * kPanel];
};
thread_local Memory memory;

// Columns [column, column + columns) of rows [k, k + depth) of b, the rest of the panel zero.
template <typename T>
void copy_panel(const View& b, int64_t k, int64_t depth, int64_t column, int64_t columns) {
  for (int64_t i = 0; i < depth; i++) {
    const T* from = b.as<T>() + (k + i) * b.stride[0] + column;
    float* to = memory.panel + i * kPanel;
    for_lanes(columns, [&](int64_t j, auto lanes) { write(to + j, read(from + j, lanes), lanes); });
    for (int64_t j = columns; j < divide_up(columns, kLanes) * kLanes; j++) to[j] = 0;
  }
}

void copy_rows(const View& a, int64_t k, int64_t depth, int64_t row, int64_t rows) {
  for (int64_t i = 0; i < depth; i++)
    memcpy(memory.a + i * kHeight, a.as<float>() + (k + i) * a.stride[0] + row,
           static_cast<size_t>(rows) * sizeof(float));
}

// Rows [row, row + rows), one panel of columns, one step of the depth. The rows of a transposed `a` are in
// memory.a.
void multiply_step(const Product& product, int64_t row, int64_t rows, int64_t column, int64_t k,
                   int64_t depth) {
  const View &out = product.out, &a = product.a;
  const int64_t present = smaller(kPanel, out.shape[1] - column),
                columns = divide_up(present, kLanes) * kLanes;
  product.b.dtype == DType::kBF16 ? copy_panel<uint16_t>(product.b, k, depth, column, present)
                                  : copy_panel<float>(product.b, k, depth, column, present);
  const bool accumulate = product.accumulate || k > 0, direct = columns == present;
  float* place = out.as<float>() + row * out.stride[0] + column;
  float* target = direct ? place : memory.out;
  const int64_t stride = direct ? out.stride[0] : kPanel;
  const auto copy = [&](float* to, int64_t to_stride, const float* from, int64_t from_stride) {
    for (int64_t r = 0; r < rows; r++)
      memcpy(to + r * to_stride, from + r * from_stride, static_cast<size_t>(present) * sizeof(float));
  };
  if (!direct && accumulate) copy(target, stride, place, out.stride[0]);
  if (product.transposed) {
    multiply_transposed(rows, columns, depth, memory.a, kHeight, memory.panel, kPanel, target, stride,
                        accumulate);
  } else {
    multiply_panel(rows, columns, depth, a.as<const float>() + row * a.stride[0] + k, a.stride[0],
                   static_cast<const float*>(memory.panel), kPanel, target, stride, accumulate);
  }
  if (!direct) copy(place, out.stride[0], target, stride);
}

void multiply(const Product& product, Execution& execution) {
  const int64_t rows = product.out.shape[0], panels = divide_up(product.out.shape[1], kPanel);
  const int64_t threads = execution.pool->threads();
  int64_t height = kHeight;
  while (height > 24 && divide_up(rows, height) * panels < 2 * threads) height /= 2;
  height = divide_up(divide_up(rows, divide_up(rows, height)), 6) * 6;
  const int64_t blocks = divide_up(rows, height);
  const int64_t ranges = smaller(panels, divide_up(4 * threads, blocks));
  parallel(execution, blocks * ranges, [&](int64_t item, int) {
    const int64_t row = item % blocks * height, count = smaller(height, rows - row), range = item / blocks;
    for (int64_t k = 0; k < product.depth; k += kDepth) {
      const int64_t depth = smaller(kDepth, product.depth - k);
      if (product.transposed) copy_rows(product.a, k, depth, row, count);
      for (int64_t panel = panels * range / ranges; panel < panels * (range + 1) / ranges; panel++)
        multiply_step(product, row, count, panel * kPanel, k, depth);
    }
  });
}

}  // namespace

Status matmul_input_gradient(const MatmulInputGradientParams& params, Execution& execution) {
  const View& dx = params.dx;
  if (dx.size() == 0) return Status();
  if (params.weight.shape[0] == 0) {
    for (int64_t t = 0; t < dx.shape[0] && !params.accumulate; t++)
      memset(dx.as<float>() + t * dx.stride[0], 0, static_cast<size_t>(dx.shape[1]) * sizeof(float));
    return Status();
  }
  multiply({dx, params.dy, params.weight, false, params.accumulate, params.weight.shape[0]}, execution);
  return Status();
}

Status matmul_weight_gradient(const MatmulWeightGradientParams& params, Execution& execution) {
  if (params.d_weight.size() == 0) return Status();
  multiply({params.d_weight, params.dy, params.x, true, true, params.x.shape[0]}, execution);
  return Status();
}

// Threads share the columns. Blocks of rows are summed before they are added up, which keeps more digits.
Status column_sums(const ColumnSumsParams& params, Execution& execution) {
  constexpr int64_t kRows = 256;
  const View& x = params.x;
  const int64_t columns = x.shape[1], vectors = divide_up(columns, kLanes);
  for_rows(execution, vectors, x.shape[0] * kLanes, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kLanes, count = smaller(end * kLanes, columns) - first;
    for_lanes(count, [&](int64_t i, auto lanes) {
      const float* from = x.as<float>() + first + i;
      float* to = params.out.as<float>() + first + i;
      vf total = {};
      for (int64_t block = 0; block < x.shape[0]; block += kRows) {
        vf sums = {};
        for (int64_t t = block; t < smaller(block + kRows, x.shape[0]); t++)
          sums += read(from + t * x.stride[0], lanes);
        total += sums;
      }
      write(to, read(to, lanes) + total, lanes);
    });
  });
  return Status();
}

SPKV_ISA_END
