// The matrix product and the packing of its weights.
//
// The output is cut into blocks of rows and ranges of columns, which the threads take. A block goes panel by
// panel, and each panel in steps through the depth, so that a piece of the panel is in the second-level cache
// while all rows of the block pass over it. Between steps the sums wait in `out`, in full precision, so their
// order is that of one uninterrupted loop over k.
#include "cpu/microkernel.h"
#include "cpu/packed.h"
#include "cpu/scratch.h"

SPKV_ISA_BEGIN

constexpr int64_t kBlockRows = 192;
constexpr int64_t kBlockDepth = 512;

struct Scratch {
  alignas(64) float out[kBlockRows * kPanelColumns];
  alignas(64) uint32_t panel[kBlockDepth * kPanelColumns];
};
static thread_local Scratch scratch;

// Transposes `columns` rows of a weight, from some k on, into as many columns of a panel: `units` rows of
// 32-bit units. The row holds `depth` elements from there on; the missing half of a last unit is zero.
template <typename T>
static void pack_columns(uint32_t* panel, const T* weight, int64_t stride, int64_t columns, int64_t units,
                         int64_t depth) {
  constexpr int64_t kPer = 4 / sizeof(T);
  constexpr int64_t kTile = 16;
  const int64_t whole = depth / kPer;
  for (int64_t j = 0; j < columns; j += kTile) {
    const T* source = weight + j * stride;
    int64_t u = 0;
    // The units of one column follow each other in memory: 16 streams, read line by line.
    for (; j + kTile <= columns && u + kTile <= whole; u += kTile) {
      for (int64_t i = u; i < u + kTile; i++)
        for (int64_t c = 0; c < kTile; c++)
          panel[i * kPanelColumns + j + c] = load<uint32_t>(source + c * stride + i * kPer);
    }
    for (; u < units; u++) {
      size_t bytes = static_cast<size_t>(smaller(kPer, depth - u * kPer)) * sizeof(T);
      for (int64_t c = 0; c < smaller(kTile, columns - j); c++) {
        uint32_t unit = 0;
        memcpy(&unit, source + c * stride + u * kPer, bytes);
        panel[u * kPanelColumns + j + c] = unit;
      }
    }
  }
}

static void clear_columns(uint32_t* panel, int64_t columns, int64_t units) {
  for (int64_t u = 0; u < units; u++) memset(panel + u * kPanelColumns, 0, static_cast<size_t>(columns) * 4);
}

// [depth, columns] of the weight as the panel product wants it, `columns` a part of one panel.
template <typename T>
static const T* panel_of(const View& weight, int64_t column, int64_t columns, int64_t k, int64_t depth) {
  constexpr int64_t kPer = 4 / sizeof(T);
  if (weight.layout == Layout::kPacked) {
    int64_t units = packed_units(weight.dtype, weight.shape[1]);
    int64_t first = column / kPanelColumns * kPanelColumns;
    return weight.as<const T>() + ((first * units) + k / kPer * kPanelColumns + column - first) * kPer;
  }
  int64_t present = smaller(columns, weight.shape[0] - column);
  int64_t units = divide_up(depth, kPer);
  const T* source = weight.as<const T>() + column * weight.stride[0] + k;
  pack_columns(scratch.panel, source, weight.stride[0], present, units, depth);
  clear_columns(scratch.panel + present, columns - present, units);
  return reinterpret_cast<const T*>(scratch.panel);
}

// out[rows, columns] (+)= x[rows, depth] * panel[depth, columns]
template <typename T>
static void multiply_depth(int64_t rows, int64_t columns, int64_t depth, const float* x, int64_t ldx,
                           const T* panel, float* out, int64_t ldo, bool accumulate) {
  constexpr int64_t kPer = 4 / sizeof(T);
  int64_t even = depth / kPer * kPer;
  if (even > 0 || depth == 0)
    multiply_panel<T>(rows, columns, even, x, ldx, panel, kPanelColumns, out, ldo, accumulate);
  if (even == depth) return;
  // The last k of an odd depth has no partner in x: the panel's zero gets one.
  float last[kBlockRows][2];
  for (int64_t r = 0; r < rows; r++) {
    last[r][0] = x[r * ldx + even];
    last[r][1] = 0;
  }
  multiply_panel<T>(rows, columns, kPer, last[0], 2, panel + even * kPanelColumns, kPanelColumns, out, ldo,
                    accumulate || even > 0);
}

template <typename T>
static void add_bias(int64_t rows, int64_t columns, const T* bias, float* out, int64_t ldo) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < columns; j++) out[r * ldo + j] += Element<T>::get(bias + j);
}

static void add_bias(const View& bias, int64_t rows, int64_t column, int64_t columns, float* out,
                     int64_t ldo) {
  if (!bias) return;
  if (bias.dtype == DType::kBF16) {
    add_bias(rows, columns, bias.as<const uint16_t>() + column, out, ldo);
  } else {
    add_bias(rows, columns, bias.as<const float>() + column, out, ldo);
  }
}

// Rows [row, row + rows) of out, columns [column, column + columns): part of one panel, perhaps beyond N.
template <typename T>
static void multiply_block(const MatmulParams& params, int64_t row, int64_t rows, int64_t column,
                           int64_t columns) {
  const View &x = params.x, &out = params.out;
  const int64_t depth = x.shape[1], present = smaller(columns, out.shape[1] - column);
  float* place = out.as<float>() + row * out.stride[0] + column;
  // Columns beyond N are computed beside the output, and so is what will be added to it.
  const bool beside = present < columns || params.base;
  float* target = beside ? scratch.out : place;
  const int64_t ldt = beside ? kPanelColumns : out.stride[0];
  int64_t k = 0;
  do {
    int64_t step = smaller(kBlockDepth, depth - k);
    const T* panel = panel_of<T>(params.weight, column, columns, k, step);
    multiply_depth<T>(rows, columns, step, x.as<const float>() + row * x.stride[0] + k, x.stride[0], panel,
                      target, ldt, k > 0);
    k += step;
  } while (k < depth);
  add_bias(params.bias, rows, column, present, target, ldt);
  for (int64_t r = 0; r < rows && beside; r++) {
    const float* from = target + r * ldt;
    float* to = place + r * out.stride[0];
    const float* base =
        params.base ? params.base.as<float>() + (row + r) * params.base.stride[0] + column : nullptr;
    for (int64_t j = 0; j < present; j++) to[j] = base ? base[j] + from[j] : from[j];
  }
}

// How many pieces to cut the work into: none so small that handing it out takes longer than doing it, and
// enough to keep all threads busy to the end.
static int64_t pieces(int64_t rows, int64_t columns, int64_t depth, int64_t threads) {
  int64_t work = columns * depth * divide_up(rows, 4);  // four rows hardly take longer than one
  if (work < threads * 65536) return larger<int64_t>(1, smaller(threads, work / 16384));
  return smaller(divide_up(work / 65536, threads), int64_t{8}) * threads;
}

// A plain weight is packed by every block of rows that meets it. With many blocks it is packed once, before,
// unless it is large; the sums are the same.
static Status pack_for_many_rows(MatmulParams* params, Execution& execution) {
  constexpr int64_t kManyRows = 2 * kBlockRows, kMostBytes = int64_t{64} << 20;
  const View weight = params->weight;
  const int64_t bytes = packed_bytes(weight.dtype, weight.shape[0], weight.shape[1]);
  if (weight.layout == Layout::kPacked || params->x.shape[0] < kManyRows || bytes > kMostBytes)
    return Status();
  PackWeightParams pack;
  pack.out = weight;
  pack.out.layout = Layout::kPacked;
  pack.out.data = cpu::scratch(bytes);
  if (!pack.out.data) return no_scratch(bytes);
  pack.count = 1;
  pack.sources[0] = weight;
  params->weight = pack.out;
  return pack_weight(pack, execution);
}

Status matmul(const MatmulParams& given, Execution& execution) {
  MatmulParams params = given;
  const int64_t rows = params.out.shape[0], columns = params.out.shape[1], depth = params.x.shape[1];
  if (rows == 0 || columns == 0) return Status();
  SPKV_RETURN_IF_ERROR(pack_for_many_rows(&params, execution));
  const int64_t threads = execution.pool->threads();
  const int64_t wanted = pieces(rows, columns, depth, threads);
  const int64_t panels = divide_up(columns, kPanelColumns);
  // Row blocks of about equal height, in whole tiles, times ranges of columns, in whole or half panels.
  int64_t height = kBlockRows;
  while (height > 24 && divide_up(rows, height) * panels < wanted) height /= 2;
  height = divide_up(divide_up(rows, divide_up(rows, height)), 6) * 6;
  const int64_t row_blocks = divide_up(rows, height);
  const int64_t unit = panels < 8 * threads ? kPanelColumns / 2 : kPanelColumns;
  const int64_t units = divide_up(columns, unit);
  const int64_t ranges = smaller(divide_up(wanted, row_blocks), larger(panels, smaller(units, threads)));
  parallel(execution, row_blocks * ranges, [&](int64_t item, int) {
    const int64_t row = item % row_blocks * height, range = item / row_blocks;
    const int64_t end = units * (range + 1) / ranges * unit;
    for (int64_t column = units * range / ranges * unit, width; column < end; column += width) {
      width = smaller(kPanelColumns - column % kPanelColumns, end - column);
      if (params.weight.dtype == DType::kBF16) {
        multiply_block<uint16_t>(params, row, smaller(height, rows - row), column, width);
      } else {
        multiply_block<float>(params, row, smaller(height, rows - row), column, width);
      }
    }
  });
  return Status();
}

Status pack_weight(const PackWeightParams& params, Execution& execution) {
  const int64_t n = params.out.shape[0], k = params.out.shape[1];
  const int64_t units = packed_units(params.out.dtype, k);
  parallel(execution, divide_up(n, kPanelColumns), [&](int64_t item, int) {
    const int64_t first = item * kPanelColumns;
    uint32_t* panel = params.out.as<uint32_t>() + first * units;
    int64_t start = 0;  // of the source within the stack
    for (int s = 0; s < params.count; s++) {
      const View& source = params.sources[s];
      int64_t from = larger(first, start), to = smaller(first + kPanelColumns, start + source.shape[0]);
      if (from < to) {
        const View rows = source.at(from - start);
        if (source.dtype == DType::kBF16) {
          pack_columns(panel + from - first, rows.as<const uint16_t>(), source.stride[0], to - from, units,
                       k);
        } else {
          pack_columns(panel + from - first, rows.as<const float>(), source.stride[0], to - from, units, k);
        }
      }
      start += source.shape[0];
    }
    int64_t present = smaller(kPanelColumns, n - first);
    clear_columns(panel + present, kPanelColumns - present, units);
  });
  return Status();
}

SPKV_ISA_END
