#include "cuda/matrix_library.h"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cuda/context.h"
#include "cuda/fastest.h"

namespace spkv {
namespace cuda {
namespace {

// The part of cuBLASLt's interface that is used here, in our words; the numbers are those of NVIDIA's
// reference (docs.nvidia.com/cuda/cublas, "Using the cuBLASLt API") and the same in versions 12 and 13.
enum DataType : int32_t { kReal32 = 0, kRealBF16 = 14 };                   // cudaDataType_t
enum ComputeType : int32_t { kCompute32 = 68 };                            // CUBLAS_COMPUTE_32F: no TF32
enum MatrixOperation : int32_t { kTransposed = 1 };                        // CUBLAS_OP_T
enum DescriptionAttribute : int32_t { kTransposeA = 3, kTransposeB = 4 };  // CUBLASLT_MATMUL_DESC_TRANSA, _B
enum PreferenceAttribute : int32_t {                                       // CUBLASLT_MATMUL_PREF_*
  kMaxWorkspaceBytes = 1,
  kAlignmentA = 5,
  kAlignmentB = 6,
  kAlignmentC = 7,
  kAlignmentD = 8,
};

struct Algorithm {  // cublasLtMatmulAlgo_t
  uint64_t data[8];
};

struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace_bytes;
  int32_t status;
  float waves;
  int32_t reserved[4];
};
static_assert(sizeof(Heuristic) == 96, "as in cublasLt.h");

// Every function that is opened, with its parameters; all return a status, 0 for success.
#define SPKV_CUBLASLT(X)                                                                                     \
  X(cublasLtCreate, (void** handle))                                                                         \
  X(cublasLtDestroy, (void* handle))                                                                         \
  X(cublasLtMatmulDescCreate, (void** description, int32_t compute, int32_t scale))                          \
  X(cublasLtMatmulDescDestroy, (void* description))                                                          \
  X(cublasLtMatmulDescSetAttribute, (void* description, int32_t attribute, const void* value, size_t bytes)) \
  X(cublasLtMatrixLayoutCreate, (void** layout, int32_t type, uint64_t rows, uint64_t columns, int64_t ld))  \
  X(cublasLtMatrixLayoutDestroy, (void* layout))                                                             \
  X(cublasLtMatmulPreferenceCreate, (void** preference))                                                     \
  X(cublasLtMatmulPreferenceDestroy, (void* preference))                                                     \
  X(cublasLtMatmulPreferenceSetAttribute,                                                                    \
    (void* preference, int32_t attribute, const void* value, size_t bytes))                                  \
  X(cublasLtMatmulAlgoGetHeuristic, (void* handle, void* description, void* a, void* b, void* c, void* d,    \
                                     void* preference, int wanted, Heuristic* results, int* found))          \
  X(cublasLtMatmul,                                                                                          \
    (void* handle, void* description, const void* alpha, const void* a, void* a_layout, const void* b,       \
     void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,               \
     const Algorithm* algorithm, void* workspace, size_t workspace_bytes, cudaStream_t stream))

struct Functions {
#define SPKV_ENTRY(name, parameters) int(*name) parameters = nullptr;
  SPKV_CUBLASLT(SPKV_ENTRY)
#undef SPKV_ENTRY
};

// What distinguishes products for which different algorithms may be best: sizes, strides, alignments, dtypes,
// layouts, and what they are added to.
using Key = std::array<int64_t, 14>;

// A product that has been prepared: its description, and the algorithm chosen for it.
struct Plan {
  const Functions* functions;
  void* description = nullptr;
  void* weight = nullptr;  // layouts
  void* x = nullptr;
  void* base = nullptr;
  void* out = nullptr;
  Algorithm algorithm = {};

  explicit Plan(const Functions* functions) : functions(functions) {}
  Plan(const Plan&) = delete;
  ~Plan() {
    if (out) functions->cublasLtMatrixLayoutDestroy(out);
    if (base) functions->cublasLtMatrixLayoutDestroy(base);
    if (x) functions->cublasLtMatrixLayoutDestroy(x);
    if (weight) functions->cublasLtMatrixLayoutDestroy(weight);
    if (description) functions->cublasLtMatmulDescDestroy(description);
  }
};

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr size_t kMaxPlans = 4096;  // prompts come in all lengths
constexpr int kTimedAlgorithms = 8;

// Without a base cuBLASLt still wants one, which it does not read.
const void* base_of(const Product& product) { return product.base ? product.base : product.out; }
int64_t base_stride(const Product& product) {
  return product.base ? product.base_stride : product.out_stride;
}

uint32_t alignment_of(const void* pointer) {
  uintptr_t address = reinterpret_cast<uintptr_t>(pointer) | 256;
  return static_cast<uint32_t>(address & (~address + 1));
}

int32_t data_type(DType dtype) { return dtype == DType::kBF16 ? kRealBF16 : kReal32; }

Status check_call(int status, const char* function) {
  return status == 0 ? Status() : fail(Code::kInternal, "%s failed with status %d", function, status);
}

class CublasLt : public MatrixLibrary {
 public:
  CublasLt(const Functions& functions, void* handle) : functions_(functions), handle_(handle) {}
  ~CublasLt() override {
    plans_.clear();
    functions_.cublasLtDestroy(handle_);
  }

  Status multiply(const Product& product, Context& context) override {
    Status status;
    void* workspace =
        context.scratch(Scratch::kMatrixWorkspace, static_cast<int64_t>(kWorkspaceBytes), &status);
    if (!workspace) return status;
    const Plan* plan = nullptr;
    SPKV_RETURN_IF_ERROR(find(product, workspace, context, &plan));
    return check_call(run(product, *plan, plan->algorithm, workspace, context), "cublasLtMatmul");
  }

 private:
  int run(const Product& product, const Plan& plan, const Algorithm& algorithm, void* workspace,
          const Context& context) const {
    const float alpha = 1, beta = product.base ? 1.0f : 0.0f;
    return functions_.cublasLtMatmul(handle_, plan.description, &alpha, product.weight, plan.weight,
                                     product.x, plan.x, &beta, base_of(product), plan.base, product.out,
                                     plan.out, &algorithm, workspace, kWorkspaceBytes, context.stream());
  }

  // A product that a graph is the first to need is not timed: nothing runs while it is recorded.
  Status find(const Product& product, void* workspace, Context& context, const Plan** plan) {
    Key key = {product.rows,
               product.columns,
               product.depth,
               product.out_stride,
               product.x_stride,
               product.weight_stride,
               base_stride(product),
               alignment_of(base_of(product)),
               alignment_of(product.out),
               alignment_of(product.x),
               alignment_of(product.weight),
               static_cast<int64_t>(product.dtype),
               static_cast<int64_t>(product.out_dtype) * 4 + product.x_by_depth * 2 + product.weight_by_depth,
               !product.base                 ? 0
               : product.base == product.out ? 1
                                             : 2};
    auto known = plans_.find(key);
    if (known == plans_.end()) {
      auto made = std::make_unique<Plan>(&functions_);
      std::vector<Algorithm> algorithms;
      const bool timed = context.time_products() && !context.recording();
      SPKV_RETURN_IF_ERROR(prepare(product, timed ? kTimedAlgorithms : 1, made.get(), &algorithms));
      made->algorithm = algorithms[fastest(product, *made, algorithms, workspace, context)];
      if (plans_.size() >= kMaxPlans) plans_.clear();
      known = plans_.emplace(key, std::move(made)).first;
    }
    *plan = known->second.get();
    return Status();
  }

  // Which of the algorithms to take. They are timed on the product itself, for what they write is written
  // again afterwards. Only one that is added to its own output must be computed once: another output stands
  // in.
  size_t fastest(const Product& product, const Plan& plan, const std::vector<Algorithm>& algorithms,
                 void* workspace, Context& context) const {
    if (algorithms.size() < 2) return 0;
    Product trial = product;
    std::shared_ptr<void> memory;
    if (product.base == product.out) {
      const int64_t elements = (product.rows - 1) * product.out_stride + product.columns;
      memory = context.spare(elements * dtype_bytes(product.out_dtype));
      if (!memory) return 0;
      trial.base = trial.out = memory.get();
    }
    const auto enqueue = [&](int i) {
      return run(trial, plan, algorithms[static_cast<size_t>(i)], workspace, context) == 0;
    };
    return static_cast<size_t>(fastest_of(static_cast<int>(algorithms.size()), enqueue, context.stream()));
  }

  // cuBLASLt counts matrices by columns: our rows are its columns. So with A = weight [K, N] transposed and
  // B = x [K, T] it makes D [N, T], which is our out [T, N]. An operand that lies by depth is transposed
  // where the other is not.
  Status prepare(const Product& product, int most, Plan* plan, std::vector<Algorithm>* algorithms) {
    const Functions& f = functions_;
    const int32_t type = data_type(product.dtype);
    const uint64_t n = static_cast<uint64_t>(product.columns), t = static_cast<uint64_t>(product.rows),
                   k = static_cast<uint64_t>(product.depth);
    SPKV_RETURN_IF_ERROR(check_call(f.cublasLtMatmulDescCreate(&plan->description, kCompute32, kReal32),
                                    "cublasLtMatmulDescCreate"));
    const int32_t transposed = kTransposed;
    for (auto [attribute, wanted] :
         {std::pair(kTransposeA, !product.weight_by_depth), std::pair(kTransposeB, product.x_by_depth)}) {
      if (!wanted) continue;
      SPKV_RETURN_IF_ERROR(check_call(
          f.cublasLtMatmulDescSetAttribute(plan->description, attribute, &transposed, sizeof(transposed)),
          "cublasLtMatmulDescSetAttribute"));
    }
    const auto layout = [&](void** made, int32_t of, bool by_depth, uint64_t count, int64_t stride) {
      return check_call(
          f.cublasLtMatrixLayoutCreate(made, of, by_depth ? count : k, by_depth ? k : count, stride),
          "cublasLtMatrixLayoutCreate");
    };
    SPKV_RETURN_IF_ERROR(layout(&plan->weight, type, product.weight_by_depth, n, product.weight_stride));
    SPKV_RETURN_IF_ERROR(layout(&plan->x, type, product.x_by_depth, t, product.x_stride));
    for (auto [made, stride] :
         {std::pair(&plan->base, base_stride(product)), std::pair(&plan->out, product.out_stride)}) {
      SPKV_RETURN_IF_ERROR(
          check_call(f.cublasLtMatrixLayoutCreate(made, data_type(product.out_dtype), n, t, stride),
                     "cublasLtMatrixLayoutCreate"));
    }
    void* preference = nullptr;
    SPKV_RETURN_IF_ERROR(
        check_call(f.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate"));
    Status status = propose(product, preference, most, *plan, algorithms);
    f.cublasLtMatmulPreferenceDestroy(preference);
    return status;
  }

  // The algorithms that cuBLASLt proposes, at most so many, the one that it thinks the fastest first.
  Status propose(const Product& product, void* preference, int most, const Plan& plan,
                 std::vector<Algorithm>* algorithms) {
    auto set = [&](int32_t attribute, auto value) {
      return check_call(
          functions_.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
          "cublasLtMatmulPreferenceSetAttribute");
    };
    SPKV_RETURN_IF_ERROR(set(kMaxWorkspaceBytes, static_cast<uint64_t>(kWorkspaceBytes)));
    SPKV_RETURN_IF_ERROR(set(kAlignmentA, alignment_of(product.weight)));
    SPKV_RETURN_IF_ERROR(set(kAlignmentB, alignment_of(product.x)));
    SPKV_RETURN_IF_ERROR(set(kAlignmentC, alignment_of(base_of(product))));
    SPKV_RETURN_IF_ERROR(set(kAlignmentD, alignment_of(product.out)));
    std::vector<Heuristic> results(static_cast<size_t>(most));
    int found = 0;
    SPKV_RETURN_IF_ERROR(check_call(
        functions_.cublasLtMatmulAlgoGetHeuristic(handle_, plan.description, plan.weight, plan.x, plan.base,
                                                  plan.out, preference, most, results.data(), &found),
        "cublasLtMatmulAlgoGetHeuristic"));
    results.resize(static_cast<size_t>(found));
    for (const Heuristic& result : results)
      if (result.status == 0) algorithms->push_back(result.algorithm);
    if (!algorithms->empty()) return Status();
    return fail(Code::kUnsupported, "cuBLASLt has no product of [%lld, %lld] and [%lld, %lld] in %s",
                static_cast<long long>(product.rows), static_cast<long long>(product.depth),
                static_cast<long long>(product.columns), static_cast<long long>(product.depth),
                dtype_name(product.dtype));
  }

  Functions functions_;
  void* handle_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

// The library stays open until the process ends.
void* open_library(std::string* tried) {
  const char* named = getenv("SPKV_CUBLASLT");
  if (named && *named) {
    *tried = named;
    return dlopen(named, RTLD_NOW | RTLD_LOCAL);
  }
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    *tried += (tried->empty() ? "" : " or ") + std::string(name);
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  }
  return nullptr;
}

}  // namespace

std::unique_ptr<MatrixLibrary> open_matrix_library(Status* status) {
  std::string tried;
  void* library = open_library(&tried);
  if (!library) {
    *status =
        fail(Code::kDevice,
             "Could not open cuBLASLt (%s): install it or name the file in SPKV_CUBLASLT; it is part of "
             "the CUDA toolkit and of the Python package nvidia-cublas",
             tried.c_str());
    return nullptr;
  }
  Functions functions;
#define SPKV_ENTRY(name, parameters)                                                  \
  functions.name = reinterpret_cast<decltype(functions.name)>(dlsym(library, #name)); \
  if (!functions.name) {                                                              \
    *status = fail(Code::kDevice, "%s has no function %s", tried.c_str(), #name);     \
    return nullptr;                                                                   \
  }
  SPKV_CUBLASLT(SPKV_ENTRY)
#undef SPKV_ENTRY
  void* handle = nullptr;
  *status = check_call(functions.cublasLtCreate(&handle), "cublasLtCreate");
  if (!status->ok()) return nullptr;
  return std::make_unique<CublasLt>(functions, handle);
}

}  // namespace cuda
}  // namespace spkv
