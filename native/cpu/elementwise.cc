#include "ops/elementwise.h"

#include "cpu/rows.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN
namespace {

// out = combine(a, b) for matrices of one shape.
template <typename Combine>
void combine_rows(const View& out, const View& a, const View& b, Execution& execution, int64_t cost,
                  const Combine& combine) {
  const int64_t columns = out.shape[1];
  for_rows(execution, out.shape[0], columns * cost, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      float* to = out.as<float>() + t * out.stride[0];
      const float* left = a.as<float>() + t * a.stride[0];
      const float* right = b.as<float>() + t * b.stride[0];
      for_lanes(columns, [&](int64_t i, auto lanes) {
        write(to + i, combine(read(left + i, lanes), read(right + i, lanes)), lanes);
      });
    }
  });
}

inline __attribute__((always_inline)) vh narrow(vf x) {
  const vu bits = (vu)x;
  const vu quiet_nan = (bits >> 16) | 0x40u;
  const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return __builtin_convertvector(x == x ? rounded : quiet_nan, vh);
}

void convert(float* to, const uint16_t* from, int64_t n) {
  for_lanes(n, [&](int64_t i, auto lanes) { write(to + i, read(from + i, lanes), lanes); });
}
void convert(uint16_t* to, const float* from, int64_t n) {
  for_lanes(n, [&](int64_t i, auto lanes) { write(to + i, narrow(read(from + i, lanes)), lanes); });
}
template <typename T>
void convert(T* to, const T* from, int64_t n) {
  memmove(to, from, static_cast<size_t>(n) * sizeof(T));
}

// Copies in pieces of rows. Dimensions that are contiguous on both sides count as one row.
template <typename To, typename From>
void copy_rows(const View& out, const View& x, Execution& execution) {
  constexpr int64_t kPiece = 16384;
  int outer = out.rank;
  int64_t columns = 1;
  while (outer > 0 && out.stride[outer - 1] == columns && x.stride[outer - 1] == columns) {
    columns *= out.shape[--outer];
  }
  int64_t rows = 1;
  for (int d = 0; d < outer; d++) rows *= out.shape[d];
  const int64_t pieces = divide_up(columns, kPiece);
  for_rows(execution, rows * pieces, smaller(columns, kPiece), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; item++) {
      const int64_t column = item % pieces * kPiece;
      int64_t to = column, from = column, index = item / pieces;
      for (int d = outer - 1; d >= 0; d--) {
        to += index % out.shape[d] * out.stride[d];
        from += index % out.shape[d] * x.stride[d];
        index /= out.shape[d];
      }
      convert(out.as<To>() + to, x.as<const From>() + from, smaller(kPiece, columns - column));
    }
  });
}

}  // namespace

Status silu_mul(const SiluMulParams& params, Execution& execution) {
  constexpr int64_t kExponentialCost = 4;
  combine_rows(params.out, params.gate, params.up, execution, kExponentialCost,
               [](vf gate, vf up) { return silu(gate) * up; });
  return Status();
}

Status silu_mul_backward(const SiluMulBackwardParams& params, Execution& execution) {
  constexpr int64_t kCost = 6;
  const int64_t columns = params.dy.shape[1];
  const auto row = [](const View& view, int64_t t) { return view.as<float>() + t * view.stride[0]; };
  for_rows(execution, params.dy.shape[0], columns * kCost, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float *dy = row(params.dy, t), *gate = row(params.gate, t), *up = row(params.up, t);
      float *d_gate = row(params.d_gate, t), *d_up = row(params.d_up, t);
      float* activated = params.activated ? row(params.activated, t) : nullptr;
      for_lanes(columns, [&](int64_t i, auto lanes) {
        const vf g = read(gate + i, lanes), u = read(up + i, lanes), d = read(dy + i, lanes);
        const vf s = sigmoid(g);
        write(d_gate + i, d * u * s * (splat(1.0f) + g * (splat(1.0f) - s)), lanes);
        write(d_up + i, d * g * s, lanes);
        if (activated) write(activated + i, g * s * u, lanes);
      });
    }
  });
  return Status();
}

Status add(const AddParams& params, Execution& execution) {
  combine_rows(params.out, params.a, params.b, execution, 1, [](vf a, vf b) { return a + b; });
  return Status();
}

Status copy(const CopyParams& params, Execution& execution) {
  const View &out = params.out, &x = params.x;
  if (out.dtype == x.dtype) {
    switch (dtype_bytes(out.dtype)) {
      case 1:
        copy_rows<uint8_t, uint8_t>(out, x, execution);
        break;
      case 2:
        copy_rows<uint16_t, uint16_t>(out, x, execution);
        break;
      default:
        copy_rows<uint32_t, uint32_t>(out, x, execution);
    }
  } else if (out.dtype == DType::kF32 && x.dtype == DType::kBF16) {
    copy_rows<float, uint16_t>(out, x, execution);
  } else if (out.dtype == DType::kBF16 && x.dtype == DType::kF32) {
    copy_rows<uint16_t, float>(out, x, execution);
  } else {
    return fail(Code::kDtype, "Cannot copy %s to %s", dtype_name(x.dtype), dtype_name(out.dtype));
  }
  return Status();
}

Status fill(const FillParams& params, Execution& execution) {
  const View& out = params.out;
  // In pieces of rows, as copy_rows goes.
  constexpr int64_t kPiece = 4096;
  float floats[kPiece];
  uint16_t halves[kPiece];
  for (float& value : floats) value = params.value;
  for (uint16_t& value : halves) value = to_bf16(params.value);
  int outer = out.rank;
  int64_t columns = 1;
  while (outer > 0 && out.stride[outer - 1] == columns) columns *= out.shape[--outer];
  int64_t rows = 1;
  for (int d = 0; d < outer; d++) rows *= out.shape[d];
  const int64_t element = dtype_bytes(out.dtype), pieces = divide_up(columns, kPiece);
  const char* from = out.dtype == DType::kF32 ? reinterpret_cast<const char*>(floats)
                                              : reinterpret_cast<const char*>(halves);
  for_rows(execution, rows * pieces, smaller(columns, kPiece), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; item++) {
      const int64_t column = item % pieces * kPiece;
      int64_t to = column, index = item / pieces;
      for (int d = outer - 1; d >= 0; d--) {
        to += index % out.shape[d] * out.stride[d];
        index /= out.shape[d];
      }
      memcpy(out.as<char>() + to * element, from,
             static_cast<size_t>(smaller(kPiece, columns - column) * element));
    }
  });
  return Status();
}

SPKV_ISA_END
