// The operations one after another, over the parts of qkv.
#include "ops/prepare_pairs.h"

#include "cpu/isa.h"

SPKV_ISA_BEGIN
namespace {

// The next [T, H, D] columns of the product.
View next_heads(const View& qkv, int64_t* column, int64_t heads, int64_t dim) {
  View view = qkv;
  view.data = qkv.as<float>() + *column;
  view.rank = 3;
  view.shape[1] = heads, view.shape[2] = dim;
  view.stride[1] = dim, view.stride[2] = 1;
  *column += heads * dim;
  return view;
}

Status normalize_and_rotate(const View& out, const View& x, const View& norm,
                            const PreparePairsParams& params, Execution& execution) {
  if (!norm) return rope({out, x, params.angles}, execution);
  SPKV_RETURN_IF_ERROR(rms_norm({out, x, norm, params.epsilon}, execution));
  return rope({out, out, params.angles}, execution);
}

}  // namespace

Status prepare_pairs(const PreparePairsParams& params, Execution& execution) {
  const int64_t kv_heads = params.keys.shape[1], dim = params.keys.shape[2];
  int64_t column = 0;
  const View q = next_heads(params.qkv, &column, params.q.shape[1], dim);
  const View k = next_heads(params.qkv, &column, kv_heads, dim);
  const View v = next_heads(params.qkv, &column, kv_heads, dim);
  SPKV_RETURN_IF_ERROR(normalize_and_rotate(params.q, q, params.q_norm, params, execution));
  SPKV_RETURN_IF_ERROR(normalize_and_rotate(params.keys, k, params.k_norm, params, execution));
  SPKV_RETURN_IF_ERROR(copy({params.values, v}, execution));
  if (!params.utilities) return Status();
  View hidden = params.qkv;
  hidden.data = params.qkv.as<float>() + column;
  hidden.shape[1] -= column;
  const UtilityForm form = params.log ? UtilityForm::kLogUtility : UtilityForm::kUtility;
  return predict_utility({params.utilities, hidden, params.weight, params.bias, form}, execution);
}

SPKV_ISA_END
