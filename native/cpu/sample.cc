// How a row is sampled without sorting it: all filters keep a prefix of the tokens in falling order, and the
// draw is a prefix too (the shortest whose probability exceeds the random number). So
//
//   1. one pass finds the largest logit and checks that all are finite (greedy ends here);
//   2. one pass sums the probabilities, in all and of the tokens near the largest, at a few depths;
//   3. the tokens down to the first depth that is sure to hold every prefix in question are collected;
//   4. a quickselect that adds up probabilities finds each prefix in linear time.
#include "ops/sample.h"

#include <cstdlib>

#include "core/random.h"
#include "core/step_checks.h"
#include "cpu/falling.h"
#include "cpu/logits.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

SPKV_ISA_BEGIN
namespace {

// What `choose` returns instead of a token.
enum Failure : int32_t { kBadLogit = -1, kNoMemory = -2, kNothingAllowed = -3 };

struct Scratch {
  void* data;
  explicit Scratch(int64_t bytes) : data(malloc(static_cast<size_t>(bytes))) {}
  ~Scratch() { free(data); }
  Scratch(const Scratch&) = delete;
};

struct Settings {
  float temperature, top_p, min_p, repetition, frequency, presence;
  int64_t top_k;

  explicit Settings(const float* row)
      : temperature(row[kTemperature]),
        top_p(row[kTopP]),
        min_p(row[kMinP]),
        repetition(row[kRepetition]),
        frequency(row[kFrequency]),
        presence(row[kPresence]),
        top_k(static_cast<int64_t>(row[kTopK])) {}

  bool penalties() const { return repetition != 1 || frequency != 0 || presence != 0; }
};

// Null if the row is fine, else what was expected. Comparisons are such that NaN fails them.
const char* expected_setting(const float* row, int* column) {
  const float largest = __FLT_MAX__;
  auto within = [&](int index, float low, float high) {
    *column = index;
    return row[index] >= low && row[index] <= high;
  };
  if (!within(kTemperature, 0, largest)) return "a temperature of at least 0";
  if (!within(kTopK, 0, 1e9f)) return "a top-k of at least 0";
  if (!within(kTopP, 0, 1)) return "a top-p from 0 to 1";
  if (!within(kMinP, 0, 1)) return "a min-p from 0 to 1";
  if (!within(kRepetition, __FLT_MIN__, largest)) return "a repetition penalty above 0";
  if (!within(kFrequency, -largest, largest)) return "a finite frequency penalty";
  if (!within(kPresence, -largest, largest)) return "a finite presence penalty";
  return nullptr;
}

Status check_settings(const SampleParams& params) {
  for (int64_t b = 0; b < params.out.shape[0]; b++) {
    const float* row = params.settings.as<float>() + b * params.settings.stride[0];
    int column = 0;
    if (const char* expected = expected_setting(row, &column)) {
      return fail(Code::kInvalidArgument, "Expected %s for settings[%lld, %d] but received %g", expected,
                  static_cast<long long>(b), column, static_cast<double>(row[column]));
    }
    if (!params.history && Settings(row).penalties()) {
      return fail(Code::kInvalidArgument, "Expected a history for the penalties of settings[%lld]",
                  static_cast<long long>(b));
    }
  }
  return Status();
}

void penalize(float* out, const float* logits, const int32_t* history, int64_t n, const Settings& settings) {
  for_lanes(n, [&](int64_t i, auto lanes) {
    const vi seen = read(history + i, lanes), count = seen >> 1;
    const vf x = read(logits + i, lanes);
    const vf repeated = select(x > vf{}, x / splat(settings.repetition), x * splat(settings.repetition));
    vf penalized = select(seen != 0, repeated, x);
    penalized -= splat(settings.frequency) * __builtin_convertvector(count, vf);
    penalized -= select(count != 0, splat(settings.presence), vf{});
    write(out + i, penalized, lanes);
  });
}

// What is not allowed becomes minus infinity: no prefix reaches as deep. `out` may be `logits`.
void forbid(float* out, const float* logits, const int32_t* mask, int64_t n) {
  for (int64_t start = 0; start < n; start += 32) {
    const uint32_t allowed = static_cast<uint32_t>(mask[start / 32]);
    const int64_t count = smaller(int64_t{32}, n - start);
    for (int64_t i = 0; i < count; i++) {
      out[start + i] = (allowed >> i & 1) != 0 ? logits[start + i] : -__builtin_inff();
    }
  }
}

// A row of logits x as probabilities, relative to the largest: exp((x - largest) / temperature).
struct Row {
  const float* logits;
  int64_t size;
  float largest;
  float scale;  // 1 / temperature

  // Distance from the largest in temperatures. Rounding keeps order, so what has at most some depth is a
  // prefix.
  inline __attribute__((always_inline)) vf depth(vf x) const { return (splat(largest) - x) * splat(scale); }
};

constexpr int kLevels = 6;
constexpr float kDepths[kLevels] = {3, 6, 9, 12, 16, 87};  // deeper ones have probability 0

// Number and probability of the tokens of at most the depths above.
struct Masses {
  int64_t count[kLevels] = {};
  double mass[kLevels] = {};
};

Masses weigh(const Row& row) {
  constexpr int64_t kBlock = 2048;  // summed in f32
  Masses masses;
  for (int64_t start = 0; start < row.size; start += kBlock) {
    const int64_t n = smaller(kBlock, row.size - start);
    vf mass[kLevels] = {};
    vi count[kLevels] = {};
    for_lanes(n, [&](int64_t i, auto lanes) {
      const vf depth = row.depth(read(row.logits + start + i, lanes, -__builtin_inff()));
      const vf weight = exp(-depth);
      for (int j = 0; j < kLevels; j++) {
        const vi within = depth <= splat(kDepths[j]);
        mass[j] = within ? mass[j] + weight : mass[j];
        count[j] = within ? count[j] + 1 : count[j];
      }
    });
    for (int j = 0; j < kLevels; j++) {
      masses.mass[j] += sum(mass[j]);
      for (int lane = 0; lane < kLanes; lane++) masses.count[j] += count[j][lane];
    }
  }
  return masses;
}

// Writes the candidates of at most `depth`; there is room for one more than `capacity`.
int64_t collect(const Row& row, float depth, Candidate* out, int64_t capacity) {
  constexpr int64_t kBlock = 16 * kLanes;
  int64_t count = 0;
  for (int64_t start = 0; start < row.size; start += kBlock) {
    const int64_t n = smaller(kBlock, row.size - start);
    vf nearest = splat(__builtin_inff());
    for_lanes(n, [&](int64_t i, auto lanes) {
      nearest = minimum(nearest, row.depth(read(row.logits + start + i, lanes, -__builtin_inff())));
    });
    if (-max_lane(-nearest) > depth) continue;
    float depths[kBlock], weights[kBlock];
    for_lanes(n, [&](int64_t i, auto lanes) {
      const vf d = row.depth(read(row.logits + start + i, lanes));
      write(depths + i, d, lanes);
      write(weights + i, exp(-d), lanes);
    });
    for (int64_t i = 0; i < n; i++) {
      out[count] = {candidate_key(row.logits[start + i], start + i), static_cast<double>(weights[i])};
      count += depths[i] <= depth && count < capacity;
    }
  }
  return count;
}

// Whether the tokens of a level contain all that the filters leave, or at least the one that will be drawn.
bool suffices(const Masses& masses, int level, const Settings& settings, double random) {
  constexpr double kMargin = 1 - 1e-5;  // against rounding in the sums
  if (settings.top_k > 0) return masses.count[level] >= settings.top_k;
  if (settings.min_p > __builtin_exp(-static_cast<double>(kDepths[level])) / kMargin) return true;
  if (settings.top_p == 1 && settings.min_p > 0) return false;
  const double needed = settings.top_p < 1 ? static_cast<double>(settings.top_p) : random;
  return masses.mass[level] * kMargin > needed * masses.mass[kLevels - 1];
}

int32_t draw(const Row& row, const Settings& settings, double random) {
  const Masses masses = weigh(row);
  int level = 0;
  while (level < kLevels - 1 && !suffices(masses, level, settings, random)) level++;
  const int64_t capacity = masses.count[level];
  const Scratch scratch((capacity + 1) * static_cast<int64_t>(sizeof(Candidate)));
  if (scratch.data == nullptr) return kNoMemory;
  Candidate* items = static_cast<Candidate*>(scratch.data);

  Prefix kept = {collect(row, kDepths[level], items, capacity), masses.mass[kLevels - 1]};
  if (settings.top_k > 0) {
    kept = shortest_prefix(items, kept.count, [&](const Prefix& p) { return p.count >= settings.top_k; });
  }
  if (settings.top_p < 1) {
    const double reached = settings.top_p * kept.mass;
    kept =
        shortest_prefix(items, kept.count, [&](const Prefix& p) { return p.count > 0 && p.mass >= reached; });
  }
  if (settings.min_p > 0) kept = drop_unlikely(items, kept.count, settings.min_p);
  const double drawn = random * kept.mass;
  kept = shortest_prefix(items, kept.count, [&](const Prefix& p) { return p.mass > drawn; });
  return items[kept.count - 1].id();
}

// The token of row b, or a Failure.
int32_t choose(const SampleParams& params, int64_t b) {
  const int64_t vocabulary = params.logits.shape[1];
  const float* logits = params.logits.as<const float>() + b * params.logits.stride[0];
  Settings settings(params.settings.as<const float>() + b * params.settings.stride[0]);
  if (settings.top_k >= vocabulary) settings.top_k = 0;

  const Scratch changed(settings.penalties() || params.mask ? vocabulary * 4 : 1);
  if (changed.data == nullptr) return kNoMemory;
  float* to = static_cast<float*>(changed.data);
  if (settings.penalties()) {
    const int32_t* history = params.history.as<const int32_t>() + b * params.history.stride[0];
    penalize(to, logits, history, vocabulary, settings);
    logits = to;
  }
  Peak peak = find_peak(logits, vocabulary);
  if (!peak.finite) return kBadLogit;
  if (params.mask) {
    forbid(to, logits, params.mask.as<const int32_t>() + b * params.mask.stride[0], vocabulary);
    logits = to;
    peak = find_peak(logits, vocabulary);
    if (peak.value == -__builtin_inff()) return kNothingAllowed;
  }
  if (settings.temperature == 0) return static_cast<int32_t>(peak.index);

  const int32_t* seed = params.seeds.as<const int32_t>() + b * params.seeds.stride[0];
  const int32_t position = params.positions.as<const int32_t>()[b * params.positions.stride[0]];
  const double random = uniform(static_cast<uint32_t>(seed[0]), static_cast<uint32_t>(seed[1]),
                                static_cast<uint32_t>(position));
  const float scale = smaller(1.0f / settings.temperature, __FLT_MAX__);
  return draw({logits, vocabulary, peak.value, scale}, settings, random);
}

Status explain(const SampleParams& params, int64_t b, int32_t failure) {
  if (failure == kNoMemory)
    return fail(Code::kOutOfMemory, "No memory to sample row %lld", static_cast<long long>(b));
  if (failure == kNothingAllowed) {
    return fail(Code::kInvalidArgument, "Expected at least one allowed token for mask[%lld]",
                static_cast<long long>(b));
  }
  const float* row = params.logits.as<const float>() + b * params.logits.stride[0];
  for (int64_t v = 0; v < params.logits.shape[1]; v++) {
    if (row[v] * 0.0f == 0) continue;
    return logit_not_finite(b, v, row[v]);
  }
  return fail(Code::kNonFinite, "The penalties of row %lld make a logit infinite", static_cast<long long>(b));
}

}  // namespace

Status sample(const SampleParams& params, Execution& execution) {
  SPKV_RETURN_IF_ERROR(check_settings(params));
  const int64_t rows = params.out.shape[0];
  int32_t* out = params.out.as<int32_t>();
  const int64_t step = params.out.stride[0];
  for_rows(execution, rows, params.logits.shape[1] * 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) out[b * step] = choose(params, b);
  });
  for (int64_t b = 0; b < rows; b++) {
    if (out[b * step] < 0) return explain(params, b, out[b * step]);
  }
  if (params.history) {
    for (int64_t b = 0; b < rows; b++) {
      params.history.as<int32_t>()[b * params.history.stride[0] + out[b * step]] += 2;
    }
  }
  return Status();
}

Status record_prompt(const RecordPromptParams& params, Execution&) {
  const int64_t vocabulary = params.history.shape[0];
  const int32_t* ids = params.ids.as<const int32_t>();
  const int64_t count = params.ids.shape[0], step = params.ids.stride[0];
  for (int64_t i = 0; i < count; i++) {
    if (ids[i * step] < 0 || ids[i * step] >= vocabulary) {
      return fail(Code::kOutOfRange, "Expected an id from 0 to %lld for ids[%lld] but received %d",
                  static_cast<long long>(vocabulary - 1), static_cast<long long>(i), ids[i * step]);
    }
  }
  for (int64_t i = 0; i < count; i++) params.history.as<int32_t>()[ids[i * step]] |= 1;
  return Status();
}

SPKV_ISA_END
