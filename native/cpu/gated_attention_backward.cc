// The backward of attention with gates, on the CPU.
//
// Keys go in blocks of up to 64: blocks of neighbours, for the queries in whose window they are, and blocks
// of kept keys (cpu/kept_keys.h), for those that come later. A block meets the queries 64 at a time, one head
// after another; scores and their gradients exist for one such tile only, keys down and queries across:
//
//   s = K Q'    dp = V dO'    p = exp(s + gate - log_sum_exp)    ds = p * (dp - delta)
//   dV += p dO    dK += ds Q    dQ += ds' K
//
// The gradients of a block of keys have one owner. Those of the queries are summed in a few shares, whose
// number depends on the shapes alone, each for every so-manieth block: the order of all sums is fixed.
#include "core/step_checks.h"
#include "cpu/kept_keys.h"
#include "cpu/microkernel_transposed.h"
#include "ops/gated_attention.h"

SPKV_ISA_BEGIN
namespace {

constexpr int64_t kBlock = kPageTokens;  // queries or keys
constexpr int64_t kLeastItems = 16;      // that the threads share

// One (document, KV head). Tokens are counted from the document's first. Rows of D numbers are padded to P.
struct Unit {
  int64_t token, tokens, head;
  int64_t blocks, shares;
  KeptKeys kept;
  float* q;        // [group][blocks] pages: times the scale, as keys and as values
  float* d_out;    // [group][blocks] pages: likewise
  float* sums;     // [group][blocks][2][64]: log_sum_exp, and delta = dO . out
  float* d_q;      // [shares][group][blocks * 64][P]
  float* near;     // [2][blocks * 64][P]: dK and dV from queries in the window
  float* far;      // [2][blocks * 64][P]: of kept keys, from later queries
  float* d_gates;  // [blocks * 64]: of kept keys
  int64_t first_pack, first_item, first_block;
};

struct Plan {
  Unit* units = nullptr;
  float* thread_memory = nullptr;
  int64_t count = 0, packs = 0, items = 0, blocks = 0, group = 1, dim = 0, width = 0;
};

// A block of keys with what a thread needs to work on it.
struct Keys {
  float *k, *v;   // [64][P]
  float *s, *dp;  // [64][64], later p and ds
  int64_t count;
  const int32_t* positions;
  const float* gates;  // null in the window
  float *d_k, *d_v;    // [64][P]
  float* d_gates;

  static int64_t floats(int64_t width) { return 2 * kBlock * width + 2 * kBlock * kBlock; }
};

int64_t page_floats(int64_t dim) { return Page<float>::bytes(dim) / 4; }

void lay_out(const GatedAttentionBackwardParams& params, int threads, Carver* carver, Plan* plan) {
  const int32_t* offsets = params.offsets.as<int32_t>();
  const int64_t heads = params.keys.shape[1], documents = params.offsets.shape[0] - 1;
  *plan = Plan();
  plan->dim = params.q.shape[2], plan->width = padded_dim(plan->dim);
  plan->group = params.q.shape[1] / heads;
  plan->units = carver->take<Unit>(documents * heads);
  plan->thread_memory = carver->take<float>(threads * Keys::floats(plan->width));
  const int64_t wanted = divide_up(kLeastItems, documents * heads);
  for (int64_t b = 0; b < documents; b++) {
    const int64_t tokens = offsets[b + 1] - offsets[b], blocks = divide_up(tokens, kBlock);
    if (tokens == 0) continue;
    const int64_t rows = blocks * kBlock * plan->width;
    for (int64_t head = 0; head < heads; head++) {
      Unit unit = {};
      unit.token = offsets[b], unit.tokens = tokens, unit.head = head, unit.blocks = blocks;
      unit.shares = smaller(wanted, blocks);
      if (params.gates) unit.kept = KeptKeys::carve(carver, tokens);
      unit.q = carver->take<float>(plan->group * blocks * page_floats(plan->dim));
      unit.d_out = carver->take<float>(plan->group * blocks * page_floats(plan->dim));
      unit.sums = carver->take<float>(plan->group * blocks * 2 * kBlock);
      unit.d_q = carver->take<float>(unit.shares * plan->group * rows);
      unit.near = carver->take<float>(2 * rows);
      if (params.gates) unit.far = carver->take<float>(2 * rows);
      unit.d_gates = carver->take<float>(blocks * kBlock);
      unit.first_pack = plan->packs, unit.first_item = plan->items, unit.first_block = plan->blocks;
      if (plan->units) plan->units[plan->count] = unit;
      plan->count++;
      plan->packs += plan->group * blocks;
      plan->items += unit.shares;
      plan->blocks += blocks;
    }
  }
}

float dot(const float* a, const float* b, int64_t n) {
  float total = 0;
  for (int64_t d = 0; d < n; d++) total += a[d] * b[d];
  return total;
}

// Queries of one head and block: q and dO as pages. Those beyond the document are zeros, which add nothing.
void pack(const GatedAttentionBackwardParams& params, const Plan& plan, const Unit& unit, int64_t index) {
  const int64_t head = unit.head * plan.group + index / unit.blocks, begin = index % unit.blocks * kBlock;
  const int64_t present = smaller(kBlock, unit.tokens - begin), floats = page_floats(plan.dim);
  Page<float> q(unit.q + index * floats, plan.dim), d_out(unit.d_out + index * floats, plan.dim);
  if (present < kBlock || plan.width != plan.dim) {
    memset(q.keys, 0, static_cast<size_t>(floats) * sizeof(float));
    memset(d_out.keys, 0, static_cast<size_t>(floats) * sizeof(float));
  }
  float* sums = unit.sums + index * 2 * kBlock;
  memset(sums, 0, 2 * kBlock * sizeof(float));
  for (int64_t i = 0; i < present; i++) {
    const int64_t token = unit.token + begin + i;
    float scaled[256];
    scale_row(query_row(params.q, token, head), plan.dim, params.scale, scaled);
    const float* gradient = query_row(params.d_out, token, head);
    q.write(i, scaled, scaled);
    d_out.write(i, gradient, gradient);
    sums[i] = params.log_sum_exp.as<float>()[token * params.log_sum_exp.stride[0] + head];
    sums[kBlock + i] = dot(gradient, query_row(params.out, token, head), plan.dim);
  }
}

// From s and dp to p and ds. `oldest` and `newest` are, for each key, the queries that see it: where not all
// of the tile does, the others are masked.
template <bool kMasked>
void weigh(const Keys& keys, int64_t from, int64_t to, const float* sums, int64_t query, int64_t first_seen,
           int64_t seen) {
  for (int64_t i = from; i < to; i++) {
    float *s = keys.s + i * kBlock, *dp = keys.dp + i * kBlock;
    const vf gate = splat(keys.gates ? keys.gates[i] : 0.0f);
    const int32_t begin = static_cast<int32_t>(keys.positions[i] + first_seen);
    const int32_t end = static_cast<int32_t>(smaller<int64_t>(keys.positions[i] + seen, INT32_MAX));
    vf total = {};
    for (int64_t j = 0; j < kBlock; j += kLanes) {
      vf p = exp_of_negative(loadf(s + j) + gate - loadf(sums + j));
      if constexpr (kMasked) {
        const vi t = iota_from(query + j);
        p = select((t >= splati(begin)) & (t < splati(end)), p, vf{});
      }
      const vf ds = p * (loadf(dp + j) - loadf(sums + kBlock + j));
      store(s + j, p);
      store(dp + j, ds);
      total += ds;
    }
    if (keys.d_gates) keys.d_gates[i] += sum(total);
  }
}

// Keys [from, to) of a block with one block of queries of one head. A key is seen by the queries from
// `first_seen` to before `seen` behind it.
void run_tile(const Plan& plan, const Unit& unit, const Keys& keys, int64_t from, int64_t to, int64_t page,
              float* d_q, int64_t first_seen, int64_t seen) {
  const int64_t dim = plan.dim, width = plan.width, floats = page_floats(dim), rows = to - from;
  const Page<float> q(unit.q + page * floats, dim), d_out(unit.d_out + page * floats, dim);
  const int64_t query = page % unit.blocks * kBlock, at = from * width, tile = from * kBlock;
  multiply_panel(rows, kBlock, dim, keys.k + at, width, static_cast<const float*>(q.keys), kBlock,
                 keys.s + tile, kBlock, false);
  multiply_panel(rows, kBlock, dim, keys.v + at, width, static_cast<const float*>(d_out.keys), kBlock,
                 keys.dp + tile, kBlock, false);
  const bool all_see =
      query >= keys.positions[to - 1] + first_seen && query + kBlock <= keys.positions[from] + seen;
  const float* sums = unit.sums + page * 2 * kBlock;
  all_see ? weigh<false>(keys, from, to, sums, query, first_seen, seen)
          : weigh<true>(keys, from, to, sums, query, first_seen, seen);
  multiply_panel(rows, width, kBlock, keys.s + tile, kBlock, static_cast<const float*>(d_out.values), width,
                 keys.d_v + at, width, true);
  multiply_panel(rows, width, kBlock, keys.dp + tile, kBlock, static_cast<const float*>(q.values), width,
                 keys.d_k + at, width, true);
  multiply_transposed(kBlock, width, rows, keys.dp + tile, kBlock, keys.k + at, width, d_q, width, true);
}

// One block of keys with all queries that see any of them.
void run_block(const GatedAttentionBackwardParams& params, const Plan& plan, const Unit& unit,
               const Keys& keys, float* d_q, int64_t first_seen, int64_t seen) {
  const int64_t width = plan.width, rows = unit.blocks * kBlock * width;
  for (int64_t i = 0; i < keys.count; i++) {
    const int64_t token = unit.token + keys.positions[i];
    for (int64_t d = 0; d < width; d++) {
      keys.k[i * width + d] = d < plan.dim ? query_row(params.keys, token, unit.head)[d] : 0;
      keys.v[i * width + d] = d < plan.dim ? query_row(params.values, token, unit.head)[d] : 0;
    }
  }
  memset(keys.d_k, 0, static_cast<size_t>(keys.count * width) * sizeof(float));
  memset(keys.d_v, 0, static_cast<size_t>(keys.count * width) * sizeof(float));
  const int64_t last = smaller(unit.tokens, keys.positions[keys.count - 1] + seen) - 1;
  for (int64_t block = (keys.positions[0] + first_seen) / kBlock; block * kBlock <= last; block++) {
    const int64_t query = block * kBlock;
    int64_t from = 0, to = keys.count;
    while (from < to && keys.positions[from] + seen <= query) from++;
    while (from < to && keys.positions[to - 1] + first_seen >= query + kBlock) to--;
    if (from == to) continue;
    for (int64_t h = 0; h < plan.group; h++)
      run_tile(plan, unit, keys, from, to, h * unit.blocks + block, d_q + h * rows + query * width,
               first_seen, seen);
  }
}

// Every `shares`-th block of keys, of the kept ones and of all.
void run_share(const GatedAttentionBackwardParams& params, const Plan& plan, const Unit& unit, int64_t share,
               float* memory) {
  const int64_t width = plan.width, rows = unit.blocks * kBlock * width;
  float* d_q = unit.d_q + share * plan.group * rows;
  memset(d_q, 0, static_cast<size_t>(plan.group * rows) * sizeof(float));
  Keys keys = {};
  keys.k = memory, keys.v = keys.k + kBlock * width, keys.s = keys.v + kBlock * width;
  keys.dp = keys.s + kBlock * kBlock;
  const int64_t window = params.gates ? params.window : INT32_MAX;
  for (int64_t begin = share * kBlock; begin < unit.kept.count; begin += unit.shares * kBlock) {
    keys.count = smaller(kBlock, unit.kept.count - begin);
    keys.positions = unit.kept.positions + begin, keys.gates = unit.kept.gates + begin;
    keys.d_k = unit.far + begin * width, keys.d_v = unit.far + rows + begin * width;
    keys.d_gates = unit.d_gates + begin;
    memset(keys.d_gates, 0, kBlock * sizeof(float));
    run_block(params, plan, unit, keys, d_q, window, INT32_MAX);
  }
  for (int64_t begin = share * kBlock; begin < unit.tokens; begin += unit.shares * kBlock) {
    int32_t positions[kBlock];
    for (int64_t i = 0; i < kBlock; i++) positions[i] = static_cast<int32_t>(begin + i);
    keys.count = smaller(kBlock, unit.tokens - begin);
    keys.positions = positions, keys.gates = nullptr, keys.d_gates = nullptr;
    keys.d_k = unit.near + begin * width, keys.d_v = unit.near + rows + begin * width;
    run_block(params, plan, unit, keys, d_q, 0, window);
  }
}

float* output_row(const View& view, int64_t token, int64_t head) {
  return view.as<float>() + token * view.stride[0] + head * view.stride[1];
}

// Adds up the shares of 64 tokens, and what their keys got inside and outside of the window.
void finish(const GatedAttentionBackwardParams& params, const Plan& plan, const Unit& unit, int64_t block) {
  const int64_t width = plan.width, rows = unit.blocks * kBlock * width, begin = block * kBlock;
  const int64_t end = smaller(unit.tokens, begin + kBlock);
  int64_t kept = unit.kept.before(begin);
  for (int64_t t = begin; t < end; t++) {
    for (int64_t h = 0; h < plan.group; h++) {
      float* to = output_row(params.dq, unit.token + t, unit.head * plan.group + h);
      const float* from = unit.d_q + h * rows + t * width;
      for (int64_t d = 0; d < plan.dim; d++) {
        float total = 0;
        for (int64_t share = 0; share < unit.shares; share++) total += from[share * plan.group * rows + d];
        to[d] = params.scale * total;
      }
    }
    const bool is_kept = kept < unit.kept.count && unit.kept.positions[kept] == t;
    float *d_k = output_row(params.dk, unit.token + t, unit.head),
          *d_v = output_row(params.dv, unit.token + t, unit.head);
    const float *near = unit.near + t * width, *far = is_kept ? unit.far + kept * width : nullptr;
    for (int64_t d = 0; d < plan.dim; d++) {
      d_k[d] = near[d] + (is_kept ? far[d] : 0.0f);
      d_v[d] = near[rows + d] + (is_kept ? far[rows + d] : 0.0f);
    }
    if (params.d_gates)
      params.d_gates.as<float>()[(unit.token + t) * params.d_gates.stride[0] + unit.head] =
          is_kept ? unit.d_gates[kept] : 0.0f;
    kept += is_kept;
  }
}

}  // namespace

Status gated_attention_backward(const GatedAttentionBackwardParams& params, Execution& execution) {
  SPKV_RETURN_IF_ERROR(
      check_offsets(params.offsets.as<int32_t>(), params.offsets.shape[0] - 1, params.q.shape[0]));
  const int threads = execution.pool->threads();
  Plan plan;
  Carver measure{nullptr};
  lay_out(params, threads, &measure, &plan);
  Carver carver{static_cast<char*>(scratch(measure.used))};
  if (!carver.base) return no_scratch(measure.used);
  lay_out(params, threads, &carver, &plan);
  if (params.gates) {
    parallel(execution, plan.count, [&](int64_t item, int) {
      Unit& unit = plan.units[item];
      unit.kept.list(params.gates, unit.token, unit.tokens, unit.head);
    });
  }
  parallel(execution, plan.packs, [&](int64_t item, int) {
    const Unit& unit = entry_of(plan.units, plan.count, &Unit::first_pack, item);
    pack(params, plan, unit, item - unit.first_pack);
  });
  parallel(execution, plan.items, [&](int64_t item, int thread) {
    const Unit& unit = entry_of(plan.units, plan.count, &Unit::first_item, item);
    run_share(params, plan, unit, item - unit.first_item,
              plan.thread_memory + thread * Keys::floats(plan.width));
  });
  parallel(execution, plan.blocks, [&](int64_t item, int) {
    const Unit& unit = entry_of(plan.units, plan.count, &Unit::first_block, item);
    finish(params, plan, unit, item - unit.first_block);
  });
  return Status();
}

SPKV_ISA_END
