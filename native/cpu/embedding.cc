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

}  // namespace

Status embedding(const EmbeddingParams& params, Execution& execution) {
  const int64_t rows = params.table.shape[0];
  for (int64_t t = 0; t < params.ids.shape[0]; t++) {
    const int32_t id = params.ids.as<int32_t>()[t * params.ids.stride[0]];
    if (id < 0 || id >= rows) {
      return fail(Code::kOutOfRange, "Expected an id from 0 to %lld for ids[%lld] but received %d",
                  static_cast<long long>(rows - 1), static_cast<long long>(t), id);
    }
  }
  params.table.dtype == DType::kBF16 ? gather<uint16_t>(params, execution) : gather<float>(params, execution);
  return Status();
}

SPKV_ISA_END
