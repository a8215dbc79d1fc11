// Attention over whole documents with a gate per key, on CUDA: the tiles of attention_tile.cuh over the
// document's own keys.
#include "ops/gated_attention.h"

#include "cuda/attention_tile.cuh"
#include "cuda/documents.h"

namespace spkv {
namespace cuda {
namespace {

struct DocumentPairs {
  struct Params {
    Rows keys, values;
    const float* gates;  // or null
    int64_t gate_stride;
  };

  const Params& p;
  int64_t token;
  int kv_head;
  static constexpr int base = 0;

  __device__ __forceinline__ DocumentPairs(const Params& params, const QueryTile& tile)
      : p(params), token(tile.token), kv_head(tile.kv_head) {}

  __device__ __forceinline__ int count(int last) const { return last + 1; }

  __device__ __forceinline__ Candidate at(int i) const {
    float gate = p.gates ? p.gates[(token + i) * p.gate_stride + kv_head] : 0.0f;
    return {{-1, token + i}, i, gate};
  }

  __device__ __forceinline__ float key(const PairPlace& place, int d) const {
    return p.keys.row(place.row, kv_head)[d];
  }
  __device__ __forceinline__ float value(const PairPlace& place, int d) const {
    return p.values.row(place.row, kv_head)[d];
  }
};

}  // namespace

Status gated_attention(const GatedAttentionParams& params, Execution& execution) {
  if (params.log_sum_exp || params.out.dtype != DType::kF32)
    return fail(Code::kUnsupported, "gatedAttention with logSumExp, or in bf16, is not available on a GPU");
  Context& context = cuda::context(execution);
  int64_t tokens = params.q.shape[0], documents = params.offsets.shape[0] - 1;
  Status status;
  const int32_t* offsets = context.host_values(params.offsets, &status);
  if (!offsets) return status;
  SPKV_RETURN_IF_ERROR(check_offsets(offsets, documents, tokens));
  if (tokens == 0) return Status();
  TileParams tiles;
  tiles.out = Rows(params.out);
  tiles.q = Rows(params.q);
  tiles.offsets = params.offsets.as<int32_t>();
  tiles.sequences = static_cast<int>(documents);
  tiles.heads = static_cast<int>(params.q.shape[1]);
  tiles.kv_heads = static_cast<int>(params.keys.shape[1]);
  tiles.head_dim = static_cast<int>(params.q.shape[2]);
  tiles.window = static_cast<int>(params.window);
  tiles.scale = params.scale;
  DocumentPairs::Params pairs;
  pairs.keys = Rows(params.keys);
  pairs.values = Rows(params.values);
  pairs.gates = params.gates.as<float>();
  pairs.gate_stride = params.gates.stride[0];
  return check(attend_tiles<DocumentPairs>(tiles, tokens, pairs, context.stream()), "gated attention");
}

}  // namespace cuda
}  // namespace spkv
