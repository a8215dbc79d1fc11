#include "ops/embedding.h"

#include "cpu/rows.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN
namespace {

template <typename T>
void gather(const EmbeddingParams& params, Execution& execution) {
  const View &out = params.out, &table = params.table;
  const int32_t* ids = params.ids.as<int32_t>();
  const int64_t columns = out.shape[1];
  for_rows(execution, out.shape[0], columns, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      float* to = out.as<float>() + t * out.stride[0];
      const T* from = table.as<T>() + ids[t * params.ids.stride[0]] * table.stride[0];
      for_lanes(columns, [&](int64_t i, auto lanes) { write(to + i, read(from + i, lanes), lanes); });
    }
  });
}

Status check_ids(const View& ids, int64_t rows) {
  for (int64_t t = 0; t < ids.shape[0]; t++) {
    const int32_t id = ids.as<int32_t>()[t * ids.stride[0]];
    if (id < 0 || id >= rows) {
      return fail(Code::kOutOfRange, "Expected an id from 0 to %lld for ids[%lld] but received %d",
                  static_cast<long long>(rows - 1), static_cast<long long>(t), id);
    }
  }
  return Status();
}

}  // namespace

Status embedding(const EmbeddingParams& params, Execution& execution) {
  SPKV_RETURN_IF_ERROR(check_ids(params.ids, params.table.shape[0]));
  params.table.dtype == DType::kBF16 ? gather<uint16_t>(params, execution) : gather<float>(params, execution);
  return Status();
}

// Threads share the columns, so that every element has its sums in the order of the tokens.
Status embedding_backward(const EmbeddingBackwardParams& params, Execution& execution) {
  const View &table = params.d_table, &dy = params.dy;
  SPKV_RETURN_IF_ERROR(check_ids(params.ids, table.shape[0]));
  constexpr int64_t kColumns = 64;
  const int32_t* ids = params.ids.as<int32_t>();
  const int64_t columns = dy.shape[1];
  for_rows(execution, divide_up(columns, kColumns), dy.shape[0] * kColumns, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kColumns, count = smaller(end * kColumns, columns) - first;
    for (int64_t t = 0; t < dy.shape[0]; t++) {
      float* to = table.as<float>() + ids[t * params.ids.stride[0]] * table.stride[0] + first;
      const float* from = dy.as<float>() + t * dy.stride[0] + first;
      for_lanes(count, [&](int64_t i, auto lanes) {
        write(to + i, read(to + i, lanes) + read(from + i, lanes), lanes);
      });
    }
  });
  return Status();
}

SPKV_ISA_END
