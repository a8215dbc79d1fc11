// Stands in for cuBLASLt under the emulator: a library of its own, which native/cuda/matrix_library.cc opens.
// Products D = alpha op(A) op(B) + beta C of matrices that lie column by column, in f32 or bf16, with sums in
// f32. The numbers are those of NVIDIA's reference ("Using the cuBLASLt API").
//
// Of every product there are several algorithms, which differ in the order of their sums, and in the minutes that
// they pretend to take. SPKV_EMULATED_ALGORITHMS has a character for each: its minutes, or ! for one that fails when
// it is run, or ? for one that the heuristic itself says cannot be used.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "emulator/runtime.h"

#define SPKV_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Status { kSuccess = 0, kInvalidValue = 7, kNotSupported = 15 };
enum DataType : int32_t { kReal32 = 0, kRealBF16 = 14 };
constexpr int32_t kCompute32 = 68, kTransposeA = 3, kTransposeB = 4;

struct Description {
  int32_t transposed[2] = {0, 0};  // A, B
};

struct Layout {
  int32_t type;
  uint64_t rows, columns;
  int64_t stride;
};

struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int32_t status;
  float waves;
  int32_t reserved[4];
};
static_assert(sizeof(Heuristic) == 96, "as the caller has it");

struct Algorithm {
  uint64_t number;
  char kind;
};

const char* algorithms() {
  const char* given = getenv("SPKV_EMULATED_ALGORITHMS");
  return given ? given : "3?!1";
}

constexpr int kMostAlgorithms = 10;
std::atomic<int> runs[kMostAlgorithms];  // of each, also where they failed

// A matrix that is read as op(X).
struct Operand {
  const void* data;
  int32_t type;
  uint64_t rows, columns;
  int64_t row_stride, column_stride;

  Operand(const void* data, const Layout& layout, bool transposed)
      : data(data),
        type(layout.type),
        rows(layout.rows),
        columns(layout.columns),
        row_stride(1),
        column_stride(layout.stride) {
    if (!transposed) return;
    std::swap(rows, columns);
    std::swap(row_stride, column_stride);
  }

  float at(uint64_t row, uint64_t column) const {
    int64_t i = static_cast<int64_t>(row) * row_stride + static_cast<int64_t>(column) * column_stride;
    if (type == kReal32) return static_cast<const float*>(data)[i];
    uint32_t word = uint32_t{static_cast<const uint16_t*>(data)[i]} << 16;
    float x;
    memcpy(&x, &word, sizeof(x));
    return x;
  }
};

bool is_valid(const Layout& layout) {
  return (layout.type == kReal32 || layout.type == kRealBF16) &&
         layout.stride >= static_cast<int64_t>(layout.rows);
}

bool fits(const Description& description, const Layout& a, const Layout& b, const Layout& d) {
  Operand left(nullptr, a, description.transposed[0]), right(nullptr, b, description.transposed[1]);
  return is_valid(a) && is_valid(b) && is_valid(d) && a.type == b.type && (d.type == kReal32 || a.type == kRealBF16) &&
         left.columns == right.rows && left.rows == d.rows && right.columns == d.columns;
}

constexpr uint64_t kLanes = 16;

// The rows of a matrix as f32, one after another, padded with zeros to a whole number of lanes.
std::vector<float> rows_of(const Operand& matrix, uint64_t stride) {
  std::vector<float> rows(matrix.rows * stride);
  for (uint64_t row = 0; row < matrix.rows; row++)
    for (uint64_t k = 0; k < matrix.columns; k++) rows[row * stride + k] = matrix.at(row, k);
  return rows;
}

Operand transposed(Operand matrix) {
  std::swap(matrix.rows, matrix.columns);
  std::swap(matrix.row_stride, matrix.column_stride);
  return matrix;
}

// Sums run in lanes, which the compiler makes vectors of, and are added up in order, from lane `first` on.
float dot(const float* a, const float* b, uint64_t count, uint64_t first) {
  float sums[kLanes] = {};
  for (uint64_t k = 0; k < count; k += kLanes)
    for (uint64_t lane = 0; lane < kLanes; lane++) sums[lane] += a[k + lane] * b[k + lane];
  float sum = 0;
  for (uint64_t lane = 0; lane < kLanes; lane++) sum += sums[(first + lane) % kLanes];
  return sum;
}

void put(void* data, int32_t type, int64_t i, float x) {
  if (type == kReal32) {
    static_cast<float*>(data)[i] = x;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  static_cast<uint16_t*>(data)[i] =
      static_cast<uint16_t>(nan ? (bits >> 16) | 0x40 : (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

void multiply(const Operand& a, const Operand& b, float alpha, float beta, const Operand& c, void* d,
              const Layout& d_layout, uint64_t first_lane) {
  const uint64_t depth = (a.columns + kLanes - 1) / kLanes * kLanes;
  const std::vector<float> left = rows_of(a, depth), right = rows_of(transposed(b), depth);
  for (uint64_t row = 0; row < a.rows; row++) {
    for (uint64_t column = 0; column < b.columns; column++) {
      const float before = beta == 0 ? 0 : beta * c.at(row, column);
      put(d, d_layout.type, static_cast<int64_t>(column) * d_layout.stride + static_cast<int64_t>(row),
          alpha * dot(&left[row * depth], &right[column * depth], depth, first_lane) + before);
    }
  }
}

template <typename T, typename... Arguments>
int create(void** object, Arguments... arguments) {
  *object = new T{arguments...};
  return kSuccess;
}

template <typename T>
int destroy(void* object) {
  delete static_cast<T*>(object);
  return kSuccess;
}

struct Nothing {};  // handles and preferences

}  // namespace

SPKV_EXPORT int cublasLtCreate(void** handle) { return create<Nothing>(handle); }
SPKV_EXPORT int cublasLtDestroy(void* handle) { return destroy<Nothing>(handle); }

SPKV_EXPORT int cublasLtMatmulDescCreate(void** description, int32_t compute, int32_t scale) {
  if (compute != kCompute32 || scale != kReal32) return kNotSupported;
  return create<Description>(description);
}

SPKV_EXPORT int cublasLtMatmulDescDestroy(void* description) { return destroy<Description>(description); }

SPKV_EXPORT int cublasLtMatmulDescSetAttribute(void* description, int32_t attribute, const void* value,
                                               size_t bytes) {
  if (bytes != sizeof(int32_t)) return kInvalidValue;
  if (attribute != kTransposeA && attribute != kTransposeB) return kNotSupported;
  memcpy(&static_cast<Description*>(description)->transposed[attribute - kTransposeA], value, bytes);
  return kSuccess;
}

SPKV_EXPORT int cublasLtMatrixLayoutCreate(void** layout, int32_t type, uint64_t rows, uint64_t columns,
                                           int64_t stride) {
  return create<Layout>(layout, type, rows, columns, stride);
}

SPKV_EXPORT int cublasLtMatrixLayoutDestroy(void* layout) { return destroy<Layout>(layout); }

SPKV_EXPORT int cublasLtMatmulPreferenceCreate(void** preference) { return create<Nothing>(preference); }
SPKV_EXPORT int cublasLtMatmulPreferenceDestroy(void* preference) { return destroy<Nothing>(preference); }
SPKV_EXPORT int cublasLtMatmulPreferenceSetAttribute(void*, int32_t, const void*, size_t) { return kSuccess; }

SPKV_EXPORT int cublasLtMatmulAlgoGetHeuristic(void*, void* description, void* a, void* b, void*, void* d,
                                               void*, int wanted, Heuristic* results, int* found) {
  *found = 0;
  if (wanted < 1 || !fits(*static_cast<Description*>(description), *static_cast<Layout*>(a),
                          *static_cast<Layout*>(b), *static_cast<Layout*>(d)))
    return kInvalidValue;
  for (const char* kind = algorithms(); *kind && *found < wanted && *found < kMostAlgorithms; kind++) {
    Heuristic& result = results[*found];
    result = {};
    const Algorithm algorithm = {static_cast<uint64_t>((*found)++), *kind};
    memcpy(result.algorithm, &algorithm, sizeof(algorithm));
    result.status = *kind == '?' ? kNotSupported : kSuccess;
  }
  return kSuccess;
}

SPKV_EXPORT int cublasLtMatmul(void*, void* description, const void* alpha, const void* a, void* a_layout,
                               const void* b, void* b_layout, const void* beta, const void* c, void* c_layout,
                               void* d, void* d_layout, const void* chosen, void* workspace,
                               size_t workspace_bytes, cudaStream_t stream) {
  const Description described = *static_cast<Description*>(description);
  const Layout la = *static_cast<Layout*>(a_layout), lb = *static_cast<Layout*>(b_layout),
               lc = *static_cast<Layout*>(c_layout), ld = *static_cast<Layout*>(d_layout);
  if (!fits(described, la, lb, ld) || !is_valid(lc) || lc.type != ld.type) return kInvalidValue;
  Algorithm algorithm;
  memcpy(&algorithm, chosen, sizeof(algorithm));
  runs[algorithm.number]++;
  if (algorithm.kind < '0' || algorithm.kind > '9') return kNotSupported;
  const float by = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  auto command = [=] {
    // The real library may write there.
    if (workspace) memset(workspace, 0xff, workspace_bytes < 4096 ? workspace_bytes : 4096);
    multiply(Operand(a, la, described.transposed[0]), Operand(b, lb, described.transposed[1]), by, keep,
             Operand(c, lc, false), d, ld, algorithm.number);
    if (stream) stream->pretended += std::chrono::minutes(algorithm.kind - '0');
  };
  if (!stream) {
    command();
    return kSuccess;
  }
  return stream->enqueue(command) == cudaSuccess ? kSuccess : kInvalidValue;
}

// How often an algorithm was to be run.
SPKV_EXPORT int spkv_emulated_runs(int algorithm) { return runs[algorithm]; }
