// The matrix product and the packing of its weights, see ops/matmul.h. The product is cuBLASLt's, or our
// own for few rows. With bf16
// weights, an x that is f32 is rounded to bf16 first, for the tensor cores; the sums are in f32. On an exact
// device such an x becomes three bf16 numbers instead, whose sum it is, and their products are added up in
// turn. A bias, or 0 where there is nothing to add up, is brought into `out` before and the product is
// added to it; a base alone is added by the product itself.
//
// A packed weight is its rows one after another.
#include "ops/matmul.h"

#include "cuda/common/elements.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/context.h"
#include "cuda/convert.h"
#include "cuda/few_rows_matmul.h"
#include "cuda/matrix_library.h"
#include "cuda/operations.h"

namespace spkv {
namespace cuda {
namespace {

Rows rows_of(const View& view) { return {view.data, view.dtype, view.stride[0]}; }

// The distance of rows; that of a single row may be anything.
int64_t leading(const View& view) { return view.stride[0] > view.shape[1] ? view.stride[0] : view.shape[1]; }

// Every row of `out` becomes the bias, or 0 without one.
Status fill(const View& out, const View& bias, cudaStream_t stream) {
  const int64_t rows = out.shape[0], columns = out.shape[1];
  if (!bias) {
    const size_t element = static_cast<size_t>(dtype_bytes(out.dtype));
    return check(cudaMemset2DAsync(out.data, static_cast<size_t>(leading(out)) * element, 0,
                                   static_cast<size_t>(columns) * element, static_cast<size_t>(rows), stream),
                 "matmul clears its output");
  }
  return check(convert_rows(rows_of(out), {bias.data, bias.dtype, 0}, rows, columns, stream),
               "matmul writes its bias");
}

constexpr int kBiasThreads = 256;

// A thread to an element.
template <typename Out, typename B>
__global__ void __launch_bounds__(kBiasThreads) add_bias_kernel(View out, View bias) {
  const int64_t i = int64_t{blockIdx.x} * kBiasThreads + threadIdx.x, columns = out.shape[1];
  if (i >= out.shape[0] * columns) return;
  const int64_t column = i % columns;
  Out* at = out.as<Out>() + i / columns * out.stride[0] + column;
  *at = Convert<Out, float>::apply(Convert<float, Out>::apply(*at) +
                                   Convert<float, B>::apply(bias.as<const B>()[column]));
}

Status add_bias(const View& out, const View& bias, cudaStream_t stream) {
  LaunchShape shape;
  shape.grid = dim3(blocks_for(out.size(), kBiasThreads));
  shape.block = dim3(kBiasThreads);
  const bool narrow = bias.dtype == DType::kBF16;
  const auto kernel = out.dtype == DType::kBF16
                          ? (narrow ? add_bias_kernel<uint16_t, uint16_t> : add_bias_kernel<uint16_t, float>)
                          : (narrow ? add_bias_kernel<float, uint16_t> : add_bias_kernel<float, float>);
  return check(launch(stream, shape, kernel, out, bias), "matmul adds its bias");
}

// Whether cuBLASLt can read the rows as they are. Views may repeat a row, or overlap.
bool readable(const View& view, DType dtype) {
  return view.dtype == dtype && (view.shape[0] == 1 || view.stride[0] >= view.shape[1]);
}

// f32 has 24 significant bits, bf16 has 8.
constexpr int kParts = 3;

Status multiply(const Product& product, Context& context) {
  if (few_rows_takes(product, context)) return check(multiply_few_rows(product, context), "matmul");
  return context.matrices().multiply(product, context);
}

// The smallest part first, so that less is lost when they are added up.
Status multiply_parts(Product product, const Rows& x, char* parts, int64_t stride, Context& context) {
  const int64_t part_bytes = product.rows * stride * 2;
  SPKV_RETURN_IF_ERROR(check(split_rows({parts, DType::kBF16, stride}, part_bytes / 2, x, product.rows,
                                        product.depth, context.stream()),
                             "matmul splits x"));
  for (int part = kParts - 1; part >= 0; part--) {
    product.x = parts + part * part_bytes, product.x_stride = stride;
    SPKV_RETURN_IF_ERROR(multiply(product, context));
    product.base = product.out, product.base_stride = product.out_stride;
  }
  return Status();
}

// Comes behind the packing: a launch that begins early can overtake this one, but not those before it.
__global__ void packed_kernel() {}

int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

}  // namespace

Status matmul(const MatmulParams& params, Execution& execution) {
  Context& context = cuda::context(execution);
  const View &x = params.x, &weight = params.weight, &out = params.out;
  const int64_t rows = out.shape[0], columns = out.shape[1], depth = x.shape[1];
  if (rows == 0 || columns == 0) return Status();
  const bool prepare = params.bias || depth == 0;  // `out`, before the product
  View base = params.base;
  if (prepare) {
    if (!base) {
      SPKV_RETURN_IF_ERROR(fill(out, params.bias, context.stream()));
    } else {
      if (base.data != out.data)
        SPKV_RETURN_IF_ERROR(check(convert_rows(rows_of(out), rows_of(base), rows, columns, context.stream()),
                                   "matmul copies its base"));
      if (params.bias) SPKV_RETURN_IF_ERROR(add_bias(out, params.bias, context.stream()));
    }
    base = out;
  }
  if (depth == 0) return Status();

  Product product;
  product.rows = rows, product.columns = columns, product.depth = depth;
  product.out = out.data, product.out_dtype = out.dtype, product.out_stride = leading(out);
  product.x = x.data, product.x_stride = leading(x);
  product.weight = weight.data, product.weight_stride = leading(weight);
  product.dtype = weight.dtype;
  if (base) product.base = base.data, product.base_stride = leading(base);
  product.packed = weight.layout == Layout::kPacked;

  // What cannot be read as it is goes through scratch memory, in rows that start at multiples of 16 bytes.
  const bool split = context.exact() && weight.dtype == DType::kBF16 && x.dtype == DType::kF32;
  const bool copy_x = split || !readable(x, weight.dtype), copy_weight = !readable(weight, weight.dtype);
  if (copy_x || copy_weight) {
    const int64_t stride = round_up(depth, 8), element = dtype_bytes(weight.dtype);
    const int64_t part_bytes = rows * stride * element;
    const int64_t x_bytes = copy_x ? (split ? kParts : 1) * part_bytes : 0;
    const int64_t weight_bytes = copy_weight ? columns * stride * element : 0;
    Status status;
    void* scratch = context.scratch(Scratch::kConverted, x_bytes + weight_bytes, &status);
    if (!scratch) return status;
    if (copy_x && !split) {
      SPKV_RETURN_IF_ERROR(
          check(convert_rows({scratch, weight.dtype, stride}, rows_of(x), rows, depth, context.stream()),
                "matmul converts x"));
      product.x = scratch, product.x_stride = stride;
    }
    if (copy_weight) {
      void* to = static_cast<char*>(scratch) + x_bytes;
      SPKV_RETURN_IF_ERROR(
          check(convert_rows({to, weight.dtype, stride}, rows_of(weight), columns, depth, context.stream()),
                "matmul copies its weight"));
      product.weight = to, product.weight_stride = stride;
    }
    if (split) return multiply_parts(product, rows_of(x), static_cast<char*>(scratch), stride, context);
  }
  return multiply(product, context);
}

Status pack_weight(const PackWeightParams& params, Execution& execution) {
  const int64_t depth = params.out.shape[1];
  char* to = params.out.as<char>();
  for (int i = 0; i < params.count; i++) {
    const View& source = params.sources[i];
    SPKV_RETURN_IF_ERROR(check(convert_rows({to, params.out.dtype, depth}, rows_of(source), source.shape[0],
                                            depth, context(execution).stream()),
                               "packing a weight"));
    to += source.shape[0] * depth * dtype_bytes(params.out.dtype);
  }
  return check(launch(context(execution).stream(), LaunchShape(), packed_kernel), "packing a weight");
}

}  // namespace cuda
}  // namespace spkv
