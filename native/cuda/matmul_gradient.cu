// The gradients of the matrix product, see ops/matmul.h: products of cuBLASLt's. Operands of one dtype are
// read as they are. Of two dtypes the f32 one is rounded to bf16 first, for the tensor cores; on an exact
// device the bf16 one becomes f32.
#include "cuda/context.h"
#include "cuda/convert.h"
#include "cuda/matrix_library.h"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

// An operand of a product: a matrix as it lies in memory.
struct Operand {
  const void* data;
  DType dtype;
  int64_t rows, columns, stride;

  explicit Operand(const View& view)
      : data(view.data),
        dtype(view.dtype),
        rows(view.shape[0]),
        columns(view.shape[1]),
        stride(view.stride[0]) {
    if (rows == 1 && stride < columns) stride = columns;
  }
  // Views may repeat a row, or overlap; cuBLASLt cannot read those.
  bool readable(DType wanted) const { return dtype == wanted && stride >= columns; }
  int64_t copy_stride() const { return (columns + 7) / 8 * 8; }
  int64_t copy_bytes(DType wanted) const { return rows * copy_stride() * dtype_bytes(wanted); }
};

// Brings the operands to one dtype, in scratch memory where they are not.
Status unify(Operand* a, Operand* b, Context& context) {
  const DType wanted = a->dtype == b->dtype ? a->dtype : context.exact() ? DType::kF32 : DType::kBF16;
  int64_t bytes = 0;
  for (const Operand* operand : {a, b}) bytes += operand->readable(wanted) ? 0 : operand->copy_bytes(wanted);
  if (bytes == 0) return Status();
  Status status;
  char* scratch = static_cast<char*>(context.scratch(Scratch::kConverted, bytes, &status));
  if (!scratch) return status;
  for (Operand* operand : {a, b}) {
    if (operand->readable(wanted)) continue;
    const int64_t stride = operand->copy_stride(), size = operand->copy_bytes(wanted);
    SPKV_RETURN_IF_ERROR(
        check(convert_rows({scratch, wanted, stride},
                           {const_cast<void*>(operand->data), operand->dtype, operand->stride}, operand->rows,
                           operand->columns, context.stream()),
              "converting an operand of a product"));
    operand->data = scratch, operand->dtype = wanted, operand->stride = stride;
    scratch += size;
  }
  return Status();
}

Status multiply(const View& out, bool accumulate, Operand x, bool x_by_depth, Operand weight,
                Context& context) {
  SPKV_RETURN_IF_ERROR(unify(&x, &weight, context));
  Product product;
  product.rows = out.shape[0], product.columns = out.shape[1], product.depth = weight.rows;
  product.out = out.data, product.out_dtype = out.dtype;
  product.out_stride = out.stride[0] > out.shape[1] ? out.stride[0] : out.shape[1];
  product.x = x.data, product.x_stride = x.stride, product.x_by_depth = x_by_depth;
  product.weight = weight.data, product.weight_stride = weight.stride, product.weight_by_depth = true;
  product.dtype = x.dtype;
  if (accumulate) product.base = product.out, product.base_stride = product.out_stride;
  return context.matrices().multiply(product, context);
}

}  // namespace

Status matmul_input_gradient(const MatmulInputGradientParams& params, Execution& execution) {
  const View &dx = params.dx, &dy = params.dy;
  if (dx.size() == 0) return Status();
  if (dy.shape[1] == 0) {
    FillParams nothing;
    nothing.out = dx;
    return params.accumulate ? Status() : fill(nothing, execution);
  }
  return multiply(dx, params.accumulate, Operand(dy), false, Operand(params.weight), context(execution));
}

Status matmul_weight_gradient(const MatmulWeightGradientParams& params, Execution& execution) {
  if (params.d_weight.size() == 0 || params.x.shape[0] == 0) return Status();
  return multiply(params.d_weight, true, Operand(params.dy), true, Operand(params.x), context(execution));
}

}  // namespace cuda
}  // namespace spkv
