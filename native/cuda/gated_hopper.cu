#include "cuda/gated_hopper.h"

#include <climits>

#include "cuda/gated_backward.h"
#include "cuda/gated_forward.h"
#include "cuda/gated_rows.h"

namespace spkv {
namespace cuda {
namespace {

// What the L2 cache is to hold at a time.
constexpr int64_t kSectionBytes = 24 << 20;
// So many blocks to a multiprocessor fill the GPU evenly.
constexpr int kBlocksPerMultiprocessor = 6;

bool fits(const Context& context, const View& q, const View& keys, float scale) {
  int64_t dim = q.shape[2];
  return context.compute_capability() == 90 && !context.exact() && (dim == 64 || dim == 128) && scale > 0 &&
         q.shape[0] * q.shape[1] * dim < INT_MAX && keys.shape[1] > 0;
}

// Parts of scratch memory: added up first, then laid out.
struct Parts {
  uint8_t* memory = nullptr;
  int64_t used = 0;

  template <typename T>
  T* take(int64_t count) {
    T* part = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
    used += (count * static_cast<int64_t>(sizeof(T)) + 1023) / 1024 * 1024;
    return part;
  }
  View take_like(const View& like) {
    View view = like;
    view.stride[0] = like.shape[1] * like.shape[2];
    view.stride[1] = like.shape[2];
    view.data = take<uint16_t>(like.size());
    return view;
  }
};

// Lays out what `parts` says, twice: to learn how much memory is needed, and in that memory.
template <typename LayOut>
Status with_scratch(Context& context, const LayOut& lay_out) {
  Parts measure;
  lay_out(&measure);
  Status status;
  Parts parts;
  parts.memory = static_cast<uint8_t*>(context.scratch(Scratch::kAttention, measure.used, &status));
  if (parts.memory) lay_out(&parts);
  return status;
}

int64_t longest_document(const int32_t* offsets, int64_t documents) {
  int64_t longest = 0;
  for (int64_t b = 0; b < documents; b++)
    if (offsets[b + 1] - offsets[b] > longest) longest = offsets[b + 1] - offsets[b];
  return longest;
}

KeyLists lists_of(const View& offsets, const View& keys, const int32_t* host_offsets, int tile, int extra) {
  KeyLists lists;
  lists.offsets = offsets.as<int32_t>();
  lists.documents = static_cast<int>(offsets.shape[0]) - 1;
  lists.kv_heads = static_cast<int>(keys.shape[1]);
  lists.measure(host_offsets, tile, extra);
  return lists;
}

GatedGrid grid_of(const View& q, const View& keys, int64_t bytes_of_head) {
  GatedGrid grid;
  grid.kv_heads = static_cast<int>(keys.shape[1]);
  grid.group = static_cast<int>(q.shape[1] / keys.shape[1]);
  for (int section = 1; section <= grid.kv_heads; section++)
    if (grid.kv_heads % section == 0 && section * bytes_of_head <= kSectionBytes) grid.section = section;
  return grid;
}

struct SortedKeys {
  View keys, values, sorted_keys, sorted_values;

  template <typename Params>
  Status maps(Params* to) const {
    SPKV_RETURN_IF_ERROR(make_tensor_map(&to->keys, keys, kKeyTile));
    SPKV_RETURN_IF_ERROR(make_tensor_map(&to->values, values, kKeyTile));
    SPKV_RETURN_IF_ERROR(make_tensor_map(&to->sorted_keys, sorted_keys, kKeyTile));
    return make_tensor_map(&to->sorted_values, sorted_values, kKeyTile);
  }
};

// The lists, and the keys in their order if any gate is there to drop some.
Status prepare(const KeyLists& lists, const View& gates, float factor, const SortedKeys& rows,
               Context& context) {
  SPKV_RETURN_IF_ERROR(check(make_key_lists(lists, gates, factor, context.stream()), "listing keys"));
  if (!gates) return Status();
  return check(
      sort_rows(lists, rows.sorted_keys, rows.sorted_values, rows.keys, rows.values, context.stream()),
      "sorting keys");
}

}  // namespace

bool gated_hopper_takes(const GatedAttentionParams& p, const Context& context) {
  bool good = fits(context, p.q, p.keys, p.scale);
  for (const View* view : {&p.out, &p.q, &p.keys, &p.values}) good = good && has_tensor_map(*view);
  return good;
}

bool gated_hopper_takes(const GatedAttentionBackwardParams& p, const Context& context) {
  bool good = fits(context, p.q, p.keys, p.scale);
  for (const View* view : {&p.dq, &p.dk, &p.dv, &p.d_out, &p.out, &p.q, &p.keys, &p.values})
    good = good && has_tensor_map(*view);
  return good;
}

Status gated_hopper(const GatedAttentionParams& params, const int32_t* offsets, Context& context) {
  int64_t dim = params.q.shape[2], tokens = params.q.shape[0], documents = params.offsets.shape[0] - 1;
  int64_t longest = longest_document(offsets, documents);
  GatedForward p = {};
  p.lists = lists_of(params.offsets, params.keys, offsets, gated_query_rows(dim), 0);
  p.grid = grid_of(params.q, params.keys, tokens * dim * 4);
  if (p.lists.item_count * p.grid.kv_heads < int64_t{kBlocksPerMultiprocessor} * context.multiprocessors())
    p.grid.parts = p.grid.group;
  SortedKeys rows{params.keys, params.values, params.keys, params.values};
  SPKV_RETURN_IF_ERROR(with_scratch(context, [&](Parts* parts) {
    p.lists.lay_out(parts->take<uint8_t>(p.lists.bytes()));
    if (params.gates) rows.sorted_keys = parts->take_like(params.keys);
    if (params.gates) rows.sorted_values = parts->take_like(params.values);
  }));
  SPKV_RETURN_IF_ERROR(prepare(p.lists, params.gates, 1 / params.scale, rows, context));
  SPKV_RETURN_IF_ERROR(make_tensor_map(&p.q, params.q, gated_query_rows(dim)));
  SPKV_RETURN_IF_ERROR(rows.maps(&p));
  p.out = GatedRows(params.out);
  p.log_sum_exp = params.log_sum_exp.as<float>();
  p.log_sum_exp_stride = params.log_sum_exp.stride[0];
  p.window = static_cast<int>(params.window < longest ? params.window : longest);
  p.scale = params.scale;
  return check(launch_gated_forward(p, dim, context.stream()), "gated attention");
}

Status gated_hopper(const GatedAttentionBackwardParams& params, const int32_t* offsets, Context& context) {
  int64_t dim = params.q.shape[2], tokens = params.q.shape[0], heads = params.q.shape[1];
  int64_t documents = params.offsets.shape[0] - 1, longest = longest_document(offsets, documents);
  cudaStream_t stream = context.stream();
  GatedBackward p = {};
  p.lists = lists_of(params.offsets, params.keys, offsets, kKeyTile, 1);
  p.grid = grid_of(params.q, params.keys, tokens * dim * 8);
  p.query_rows = GatedBackward::first_row(tokens, static_cast<int>(documents));
  SortedKeys rows{params.keys, params.values, params.keys, params.values};
  float *log_sums = nullptr, *products = nullptr;
  SPKV_RETURN_IF_ERROR(with_scratch(context, [&](Parts* parts) {
    p.lists.lay_out(parts->take<uint8_t>(p.lists.bytes()));
    if (params.gates) rows.sorted_keys = parts->take_like(params.keys);
    if (params.gates) rows.sorted_values = parts->take_like(params.values);
    log_sums = parts->take<float>(heads * p.query_rows);
    products = parts->take<float>(heads * p.query_rows);
    p.dq_sums = parts->take<float>(heads * p.query_rows * dim);
  }));
  SPKV_RETURN_IF_ERROR(prepare(p.lists, params.gates, kLog2E, rows, context));

  GatedProducts before;
  before.lists = p.lists;
  before.out = GatedRows(params.out);
  before.d_out = GatedRows(params.d_out);
  before.log_sum_exp = params.log_sum_exp.as<float>();
  before.log_sum_exp_stride = params.log_sum_exp.stride[0];
  before.query_rows = p.query_rows;
  before.log_sums = log_sums;
  before.products = products;
  before.heads = static_cast<int>(heads);
  before.scale = params.scale;
  SPKV_RETURN_IF_ERROR(check(make_products(before, dim, stream), "rows of gated attention"));
  SPKV_RETURN_IF_ERROR(check(
      cudaMemsetAsync(p.dq_sums, 0, static_cast<size_t>(heads * p.query_rows * dim) * sizeof(float), stream),
      "clearing gradients"));

  SPKV_RETURN_IF_ERROR(make_tensor_map(&p.q, params.q, gated_step_queries(dim)));
  SPKV_RETURN_IF_ERROR(make_tensor_map(&p.d_out, params.d_out, gated_step_queries(dim)));
  SPKV_RETURN_IF_ERROR(rows.maps(&p));
  p.dk = GatedRows(params.dk);
  p.dv = GatedRows(params.dv);
  p.d_gates = params.d_gates.as<float>();
  p.d_gates_stride = params.d_gates.stride[0];
  p.log_sums = log_sums;
  p.products = products;
  p.window = static_cast<int>(params.window < longest ? params.window : longest);
  p.scale = params.scale;
  SPKV_RETURN_IF_ERROR(check(launch_gated_backward(p, dim, stream), "gated attention, backward"));

  GatedQueryGradients after;
  after.lists = p.lists;
  after.dq = GatedRows(params.dq);
  after.dq_sums = p.dq_sums;
  after.query_rows = p.query_rows;
  after.heads = static_cast<int>(heads);
  after.scale = params.scale;
  return check(finish_dq(after, dim, stream), "gradients of queries");
}

}  // namespace cuda
}  // namespace spkv
