// Operations of training that have no CUDA version.
#include "cuda/operations.h"

namespace spkv {
namespace cuda {

#define SPKV_ABSENT(name, Params, called)                                    \
  Status name(const Params&, Execution&) {                                   \
    return fail(Code::kUnsupported, "%s is not available on a GPU", called); \
  }

SPKV_ABSENT(embedding_backward, EmbeddingBackwardParams, "embeddingBackward")
SPKV_ABSENT(rms_norm_backward, RmsNormBackwardParams, "rmsNormBackward")
SPKV_ABSENT(matmul_input_gradient, MatmulInputGradientParams, "matmulInputGradient")
SPKV_ABSENT(matmul_weight_gradient, MatmulWeightGradientParams, "matmulWeightGradient")
SPKV_ABSENT(column_sums, ColumnSumsParams, "columnSums")
SPKV_ABSENT(silu_mul_backward, SiluMulBackwardParams, "siluMulBackward")
SPKV_ABSENT(fill, FillParams, "fill")
SPKV_ABSENT(predict_utility_backward, PredictUtilityBackwardParams, "predictUtilityBackward")
SPKV_ABSENT(count_kept, CountKeptParams, "countKept")
SPKV_ABSENT(cross_entropy, CrossEntropyParams, "crossEntropy")
SPKV_ABSENT(adam_w, AdamWParams, "adamW")
SPKV_ABSENT(squared_norm, SquaredNormParams, "squaredNorm")
SPKV_ABSENT(clip_factor, ClipFactorParams, "clipFactor")

#undef SPKV_ABSENT

}  // namespace cuda
}  // namespace spkv
