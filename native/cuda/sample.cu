// Three launches. `check_kernel` finds what is wrong with any row before anything is changed, and the largest
// logit of each; `weigh_kernel` sorts the tokens of long rows into bins by their probability; `draw_kernel`
// draws, a block to a row. How a row is filtered without sorting it: falling.cuh. All filters keep a prefix
// in falling order, and the draw needs no more of it than its mass.
#include "ops/sample.h"

#include <cmath>
#include <cstring>

#include "core/random.h"
#include "cuda/bad_logit.cuh"
#include "cuda/common/elements.cuh"
#include "cuda/common/fault.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/context.h"
#include "cuda/falling.cuh"

namespace spkv {
namespace cuda {
namespace {

constexpr int kChunk = 4096;  // of a row, for a block of the first two kernels
constexpr int kChunkThreads = 256, kRowThreads = 1024;
constexpr int kBins = Softmax::kBins;

// What the kernels leave for each other.
struct Workspace {
  unsigned long long* largest;  // [B, chunks] place_of the first token in falling order
  Mass* masses;                 // [B, kBins], where a row has several chunks
  uint32_t* counts;             // [B, kBins]
  int chunks;
  float unit;  // of Softmax
};

struct Sites {
  int settings, history, logits, mask;
};

// --- Checks. Logits are reported as bad_logit.cuh says, or as made infinite by penalties.
constexpr uint32_t kBadPenalties = kGoodLogits - 1;

// NaN fails the comparisons.
__device__ bool valid_setting(int column, float value) {
  const float largest = 3.402823466e38f, least = 1.175494351e-38f;
  float low = 0, high = largest;
  if (column == kTopK) high = 1e9f;
  if (column == kTopP || column == kMinP) high = 1;
  if (column == kRepetition) low = least;
  if (column == kFrequency || column == kPresence) low = -largest;
  return value >= low && value <= high;
}

__device__ void check_settings(const SampleParams& params, int64_t b, Fault* fault, const Sites& sites) {
  const float* row = params.settings.as<const float>() + b * params.settings.stride[0];
  for (int column = 0; column < kSamplingColumns; column++) {
    if (valid_setting(column, row[column])) continue;
    raise_fault(fault, sites.settings, b * kSamplingColumns + column, __float_as_uint(row[column]));
    return;
  }
  const bool penalties = row[kRepetition] != 1 || row[kFrequency] != 0 || row[kPresence] != 0;
  if (penalties && !params.history) raise_fault(fault, sites.history, b, 0);
}

// Block (b, i) has chunk i of row b.
__global__ void __launch_bounds__(kChunkThreads)
    check_kernel(SampleParams params, Workspace workspace, Fault* fault, Sites sites) {
  const int64_t b = blockIdx.x;
  const int chunk = static_cast<int>(blockIdx.y);
  const RowLogits logits(params, b);
  if (chunk == 0) {
    if (threadIdx.x == 0) check_settings(params, b, fault, sites);
    if (!logits.allows_any() && threadIdx.x == 0) raise_fault(fault, sites.mask, b, 0);
    for (int i = threadIdx.x; workspace.chunks > 1 && i < kBins; i += blockDim.x) {
      workspace.masses[b * kBins + i] = 0;
      workspace.counts[b * kBins + i] = 0;
    }
  }
  unsigned long long largest = ~0ull;
  uint32_t bad = kGoodLogits;
  const int64_t begin = int64_t{chunk} * kChunk;
  const int end = static_cast<int>(begin + kChunk < logits.size() ? begin + kChunk : logits.size());
  logits.for_all_tokens(static_cast<int>(begin), end, [&](int id, float x) {
    const unsigned long long place = logits.allowed(id) ? place_of(x, id) : ~0ull;
    largest = place < largest ? place : largest;
    if (is_finite(x)) return;
    const float from = logits.unpenalized(id);
    bad = Least()(bad, is_finite(from) ? kBadPenalties : bad_logit(static_cast<uint32_t>(id), from));
  });
  largest = block_reduce(largest, ~0ull, Least());
  bad = block_reduce(bad, kGoodLogits, Least());
  if (threadIdx.x != 0) return;
  workspace.largest[b * workspace.chunks + chunk] = largest;
  if (bad != kGoodLogits) raise_fault(fault, sites.logits, b, bad);
}

// --- Draws.

__device__ unsigned long long largest_of(const Workspace& workspace, int64_t b) {
  unsigned long long largest = ~0ull;
  for (int i = threadIdx.x; i < workspace.chunks; i += blockDim.x) {
    largest = Least()(largest, workspace.largest[b * workspace.chunks + i]);
  }
  return block_reduce(largest, ~0ull, Least());
}

__device__ Softmax softmax_of(const Workspace& workspace, unsigned long long largest, float temperature) {
  return {logit_of(static_cast<uint32_t>(largest >> 32)), fminf(1.0f / temperature, 3.402823466e38f),
          workspace.unit};
}

__device__ void weigh(const RowLogits& logits, const Softmax& softmax, int begin, int end,
                      Histogram* depths) {
  depths->clear();
  logits.for_tokens(begin, end, [&](int id, float x) {
    const Mass weight = softmax.weight(x);
    if (weight != 0) depths->add(softmax.bin(x), weight, id);
  });
  __syncthreads();
}

// Block (b, i) has chunk i of row b.
__global__ void __launch_bounds__(kChunkThreads)
    weigh_kernel(SampleParams params, Workspace workspace, const Fault* fault) {
  if (faulty(fault)) return;
  __shared__ Histogram depths;
  const int64_t b = blockIdx.x;
  const float temperature = params.settings.as<const float>()[b * params.settings.stride[0] + kTemperature];
  if (temperature == 0) return;
  const RowLogits logits(params, b);
  const Softmax softmax = softmax_of(workspace, largest_of(workspace, b), temperature);
  const int64_t begin = int64_t{blockIdx.y} * kChunk;
  const int end = static_cast<int>(begin + kChunk < logits.size() ? begin + kChunk : logits.size());
  weigh(logits, softmax, static_cast<int>(begin), end, &depths);
  for (int i = threadIdx.x; i < kBins; i += blockDim.x) {
    if (depths.count[i] == 0) continue;
    atomicAdd(&workspace.masses[b * kBins + i], depths.mass(i));
    atomicAdd(&workspace.counts[b * kBins + i], depths.count[i]);
  }
}

__device__ Mass at_least_one(double amount, Mass all) {
  const Mass mass = static_cast<Mass>(ceil(amount));
  return mass < 1 ? 1 : mass > all ? all : mass;
}

__device__ int draw(const FallingRow& row, const float* settings, double random) {
  Mass mass = 0;
  for (int i = threadIdx.x; i < kBins; i += blockDim.x) mass += row.depths.mass(i);
  mass = block_reduce(mass, Mass{0}, Sum());
  if (settings[kTopK] >= 1) {
    const Prefix kept = row.shortest_prefix({true, static_cast<Mass>(settings[kTopK])}, false);
    if (kept.found) mass = kept.mass;
  }
  if (settings[kTopP] < 1) {
    const Mass reached = at_least_one(static_cast<double>(settings[kTopP]) * static_cast<double>(mass), mass);
    mass = row.shortest_prefix({false, reached}, false).mass;
  }
  if (settings[kMinP] > 0) mass = Least()(mass, row.mass_within(-logf(settings[kMinP])));
  const Mass passed = static_cast<Mass>(random * static_cast<double>(mass));
  return row.shortest_prefix({false, passed < mass ? passed + 1 : mass}, true).last;
}

// Block b draws for row b.
__global__ void __launch_bounds__(kRowThreads)
    draw_kernel(SampleParams params, Workspace workspace, const Fault* fault) {
  if (faulty(fault)) return;
  __shared__ Histogram depths, finer;
  const int64_t b = blockIdx.x;
  const float* settings = params.settings.as<const float>() + b * params.settings.stride[0];
  const unsigned long long largest = largest_of(workspace, b);
  int id = static_cast<int>(largest & 0xffffffffu);
  if (settings[kTemperature] != 0) {
    const RowLogits logits(params, b);
    const Softmax softmax = softmax_of(workspace, largest, settings[kTemperature]);
    if (workspace.chunks == 1) {
      weigh(logits, softmax, 0, logits.size(), &depths);
    } else {
      for (int i = threadIdx.x; i < kBins; i += blockDim.x) {
        const Mass mass = workspace.masses[b * kBins + i];
        depths.low[i] = static_cast<uint32_t>(mass);
        depths.high[i] = static_cast<uint32_t>(mass >> 32);
        depths.count[i] = workspace.counts[b * kBins + i];
      }
      __syncthreads();
    }
    const int32_t* seed = params.seeds.as<const int32_t>() + b * params.seeds.stride[0];
    const int32_t position = params.positions.as<const int32_t>()[b * params.positions.stride[0]];
    const double random = uniform(static_cast<uint32_t>(seed[0]), static_cast<uint32_t>(seed[1]),
                                  static_cast<uint32_t>(position));
    id = draw({logits, softmax, depths, &finer}, settings, random);
  }
  if (threadIdx.x != 0) return;
  params.out.as<int32_t>()[b * params.out.stride[0]] = id;
  if (params.history) params.history.as<int32_t>()[b * params.history.stride[0] + id] += 2;
}

// --- The history of a prompt.

// All ids are checked before any is recorded.
__global__ void __launch_bounds__(kChunkThreads)
    check_ids_kernel(RecordPromptParams params, Fault* fault, int site) {
  const int64_t i = int64_t{blockIdx.x} * kChunkThreads + threadIdx.x;
  if (i >= params.ids.shape[0]) return;
  const int32_t id = params.ids.as<const int32_t>()[i * params.ids.stride[0]];
  if (id < 0 || id >= params.history.shape[0]) raise_fault(fault, site, i, static_cast<uint32_t>(id));
}

__global__ void __launch_bounds__(kChunkThreads)
    record_prompt_kernel(RecordPromptParams params, const Fault* fault) {
  const int64_t i = int64_t{blockIdx.x} * kChunkThreads + threadIdx.x;
  if (i >= params.ids.shape[0] || faulty(fault)) return;
  atomicOr(params.history.as<int32_t>() + params.ids.as<const int32_t>()[i * params.ids.stride[0]], 1);
}

// --- Host.

Status describe_setting(int64_t index, uint32_t value) {
  static const char* const kExpected[kSamplingColumns] = {
      "a temperature of at least 0", "a top-k of at least 0",        "a top-p from 0 to 1",
      "a min-p from 0 to 1",         "a repetition penalty above 0", "a finite frequency penalty",
      "a finite presence penalty"};
  float setting;
  memcpy(&setting, &value, sizeof setting);
  const int column = static_cast<int>(index % kSamplingColumns);
  return fail(Code::kInvalidArgument, "Expected %s for settings[%lld, %d] but received %g", kExpected[column],
              static_cast<long long>(index / kSamplingColumns), column, static_cast<double>(setting));
}

Status describe_history(int64_t b, uint32_t) {
  return fail(Code::kInvalidArgument, "Expected a history for the penalties of settings[%lld]",
              static_cast<long long>(b));
}

Status describe_mask(int64_t b, uint32_t) {
  return fail(Code::kInvalidArgument, "Expected at least one allowed token for mask[%lld]",
              static_cast<long long>(b));
}

Status describe_drawn_logit(int64_t b, uint32_t value) {
  if (value != kBadPenalties) return describe_logit(b, value);
  return fail(Code::kNonFinite, "The penalties of row %lld make a logit infinite", static_cast<long long>(b));
}

Status make_workspace(Context& on, int64_t rows, int64_t vocabulary, Workspace* workspace) {
  workspace->chunks = static_cast<int>(blocks_for(vocabulary, kChunk));
  int bits = 62;
  while ((vocabulary - 1) >> (62 - bits) != 0) bits--;
  workspace->unit = ldexpf(1, bits);
  const int64_t largest_bytes = rows * workspace->chunks * static_cast<int64_t>(sizeof(unsigned long long));
  const int64_t binned_rows = workspace->chunks > 1 ? rows : 0;
  const int64_t mass_bytes = binned_rows * kBins * static_cast<int64_t>(sizeof(Mass));
  const int64_t count_bytes = binned_rows * kBins * static_cast<int64_t>(sizeof(uint32_t));
  Status status;
  char* memory =
      static_cast<char*>(on.scratch(Scratch::kSampling, largest_bytes + mass_bytes + count_bytes, &status));
  if (memory == nullptr) return status;
  workspace->largest = reinterpret_cast<unsigned long long*>(memory);
  workspace->masses = reinterpret_cast<Mass*>(memory + largest_bytes);
  workspace->counts = reinterpret_cast<uint32_t*>(memory + largest_bytes + mass_bytes);
  return status;
}

}  // namespace

Status sample(const SampleParams& params, Execution& execution) {
  Context& on = context(execution);
  const int64_t rows = params.logits.shape[0], vocabulary = params.logits.shape[1];
  on.overwritten(params.out);
  if (params.history) on.overwritten(params.history);
  if (rows == 0) return Status();
  const Sites sites = {
      on.fault_site("sample settings", describe_setting), on.fault_site("sample history", describe_history),
      on.fault_site("sample logits", describe_drawn_logit), on.fault_site("sample mask", describe_mask)};
  Workspace workspace;
  SPKV_RETURN_IF_ERROR(make_workspace(on, rows, vocabulary, &workspace));
  LaunchShape chunks;
  chunks.grid = dim3(static_cast<unsigned>(rows), static_cast<unsigned>(workspace.chunks));
  chunks.block = dim3(threads_for(vocabulary, kChunkThreads));
  SPKV_RETURN_IF_ERROR(
      check(launch(on.stream(), chunks, check_kernel, params, workspace, on.fault(), sites), "sample"));
  if (workspace.chunks > 1) {
    SPKV_RETURN_IF_ERROR(
        check(launch(on.stream(), chunks, weigh_kernel, params, workspace, on.fault()), "sample"));
  }
  LaunchShape draws;
  draws.grid = dim3(static_cast<unsigned>(rows));
  draws.block = dim3(threads_for(blocks_for(vocabulary, 8), kRowThreads));
  return check(launch(on.stream(), draws, draw_kernel, params, workspace, on.fault()), "sample");
}

Status record_prompt(const RecordPromptParams& params, Execution& execution) {
  Context& on = context(execution);
  on.overwritten(params.history);
  if (params.ids.shape[0] == 0) return Status();
  const long long last = params.history.shape[0] - 1;
  const int site =
      on.fault_site("record_prompt ids up to " + std::to_string(last), [last](int64_t i, uint32_t id) {
        return fail(Code::kOutOfRange, "Expected an id from 0 to %lld for ids[%lld] but received %d", last,
                    static_cast<long long>(i), static_cast<int32_t>(id));
      });
  LaunchShape shape;
  shape.grid = dim3(blocks_for(params.ids.shape[0], kChunkThreads));
  shape.block = dim3(kChunkThreads);
  SPKV_RETURN_IF_ERROR(
      check(launch(on.stream(), shape, check_ids_kernel, params, on.fault(), site), "record_prompt"));
  return check(launch(on.stream(), shape, record_prompt_kernel, params, on.fault()), "record_prompt");
}

}  // namespace cuda
}  // namespace spkv
