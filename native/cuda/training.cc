// Operations of training that have no CUDA version.
#include "cuda/operations.h"

namespace spkv {
namespace cuda {

#define SPKV_ABSENT(name, Params, called)                                    \
  Status name(const Params&, Execution&) {                                   \
    return fail(Code::kUnsupported, "%s is not available on a GPU", called); \
  }

SPKV_ABSENT(gated_attention_backward, GatedAttentionBackwardParams, "gatedAttentionBackward")

#undef SPKV_ABSENT

}  // namespace cuda
}  // namespace spkv
