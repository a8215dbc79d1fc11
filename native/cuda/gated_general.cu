// Gated attention as the tiles of attention_tile.cuh over the document's own keys.
#include "cuda/gated_general.h"

#include "cuda/attention_tile.cuh"
#include "cuda/gated_widened.h"

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

Status attend(const GatedAttentionParams& params, Context& context) {
  TileParams tiles;
  tiles.out = Rows(params.out);
  tiles.q = Rows(params.q);
  tiles.log_sum_exp = params.log_sum_exp.as<float>();
  tiles.log_sum_exp_stride = params.log_sum_exp.stride[0];
  tiles.offsets = params.offsets.as<int32_t>();
  tiles.sequences = static_cast<int>(params.offsets.shape[0]) - 1;
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
  return check(attend_tiles<DocumentPairs>(tiles, params.q.shape[0], pairs, context.stream()),
               "gated attention");
}

}  // namespace

Status gated_general(const GatedAttentionParams& given, Context& context) {
  GatedAttentionParams params = given;
  Widened widened(context, 0);
  SPKV_RETURN_IF_ERROR(widened.open({&params.q, &params.keys, &params.values}, {&params.out}));
  SPKV_RETURN_IF_ERROR(attend(params, context));
  return widened.close();
}

Status gated_general(const GatedAttentionBackwardParams& given, Context& context) {
  GatedAttentionBackwardParams params = given;
  Widened widened(context, params.q.shape[0] * params.q.shape[1]);
  SPKV_RETURN_IF_ERROR(widened.open({&params.d_out, &params.out, &params.q, &params.keys, &params.values},
                                    {&params.dq, &params.dk, &params.dv}));
  SPKV_RETURN_IF_ERROR(gated_general_backward(params, widened.extra(), context));
  return widened.close();
}

}  // namespace cuda
}  // namespace spkv
