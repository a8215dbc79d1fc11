// Products through native/cuda/matrix_library.cc, with the emulator's stand-in for cuBLASLt. Operands are small whole
// numbers, so that a result is right to the bit whatever the order of its sums. Prints for each of two products of a
// kind whether it is right, and how often each algorithm was run for it; or the error.
//
//   time_products timed|untimed none|out|other [recorded] [no-memory]     (the second word: what is added)
#include <dlfcn.h>

#include <cstdio>
#include <string>
#include <vector>

#include "cuda/matrix_library.h"
#include "plain_context.h"

// The one function of the library's device_context.cc that is needed.
spkv::Status spkv::cuda::check(cudaError_t error, const char* doing) {
  return error == cudaSuccess ? Status() : fail(Code::kInternal, "CUDA failed while %s", doing);
}

namespace spkv_test {
namespace {

struct Options {
  bool timed = false, recorded = false, memory = true;
  std::string base;
};

class TimingContext : public PlainContext {
 public:
  explicit TimingContext(const Options& options) : PlainContext(true), options_(options) {
    CHECK_CUDA(cudaStreamCreate(&stream_));
  }
  ~TimingContext() override { cudaStreamDestroy(stream_); }

  cudaStream_t stream() const override { return stream_; }
  bool time_products() const override { return options_.timed; }
  bool recording() const override { return options_.recorded; }
  std::shared_ptr<void> spare(int64_t bytes) override {
    if (!options_.memory) return nullptr;
    void* data = nullptr;
    CHECK_CUDA(cudaMalloc(&data, static_cast<size_t>(bytes)));
    return std::shared_ptr<void>(data, cudaFree);
  }

 private:
  const Options options_;
  cudaStream_t stream_ = nullptr;
};

constexpr int64_t kRows = 5, kColumns = 7, kDepth = 33, kStride = 9;  // of the output

// From -4 to 4.
std::vector<float> whole_numbers(int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random.below(9) - 4);
  return values;
}

class Runs {
 public:
  explicit Runs(const char* library)
      : count_(reinterpret_cast<int (*)(int)>(dlsym(dlopen(library, RTLD_NOW | RTLD_LOCAL), "spkv_emulated_runs"))) {}
  // Since the last call, as a JSON array.
  std::string take() {
    std::string text;
    for (int i = 0; i < 4; i++) {
      const int count = count_(i);
      text += (i == 0 ? "[" : ", ") + std::to_string(count - before_[i]);
      before_[i] = count;
    }
    return text + "]";
  }

 private:
  int (*count_)(int);
  int before_[4] = {};
};

spkv::Status multiply(MatrixLibrary& library, const Product& product, TimingContext& context) {
  if (!context.recording()) return library.multiply(product, context);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  CHECK_CUDA(cudaStreamBeginCapture(context.stream(), cudaStreamCaptureModeRelaxed));
  const spkv::Status status = library.multiply(product, context);
  CHECK_CUDA(cudaStreamEndCapture(context.stream(), &graph));
  CHECK_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  CHECK_CUDA(cudaGraphLaunch(executable, context.stream()));
  CHECK_CUDA(cudaGraphExecDestroy(executable));
  CHECK_CUDA(cudaGraphDestroy(graph));
  return status;
}

int run(const Options& options) {
  const std::vector<float> x = whole_numbers(kRows * kDepth, 1), weight = whole_numbers(kColumns * kDepth, 2);
  const std::vector<float> before = whole_numbers(kRows * kStride, 3);
  DeviceArray<float> x_device(x), weight_device(weight), base(before), out(before);
  Product product;
  product.rows = kRows, product.columns = kColumns, product.depth = kDepth;
  product.out = out.get(), product.out_stride = kStride;
  product.x = x_device.get(), product.x_stride = kDepth;
  product.weight = weight_device.get(), product.weight_stride = kDepth;
  product.dtype = DType::kF32;
  if (options.base == "out") product.base = out.get();
  if (options.base == "other") product.base = base.get();
  product.base_stride = kStride;

  TimingContext context(options);
  spkv::Status status;
  const auto library = open_matrix_library(&status);
  if (!library) {
    fprintf(stderr, "%s\n", status.message);
    return 1;
  }
  Runs runs(getenv("SPKV_CUBLASLT"));
  for (int time = 1; time <= 2; time++) {
    status = multiply(*library, product, context);
    CHECK_CUDA(cudaStreamSynchronize(context.stream()));
    const std::vector<float> result = out.read();
    bool right = base.read() == before;
    for (int64_t row = 0; row < kRows; row++) {
      for (int64_t column = 0; column < kStride; column++) {
        float sum = 0;
        for (int64_t k = 0; k < kDepth && column < kColumns; k++)
          sum += x[row * kDepth + k] * weight[column * kDepth + k];
        const float old = before[row * kStride + column];
        const float expected = column >= kColumns       ? old
                               : options.base == "out"   ? old + static_cast<float>(time) * sum
                               : options.base == "other" ? old + sum
                                                         : sum;
        right = right && result[row * kStride + column] == expected;
      }
    }
    const std::string outcome = status.ok() ? std::string("\"right\": ") + (right ? "true" : "false")
                                            : std::string("\"error\": \"") + status.message + "\"";
    printf("%s{%s, \"runs\": %s}", time == 1 ? "[" : ", ", outcome.c_str(), runs.take().c_str());
  }
  printf("]\n");
  return 0;
}

}  // namespace
}  // namespace spkv_test

int main(int argc, char** argv) {
  if (argc < 3) return 1;
  spkv_test::Options options;
  options.timed = std::string(argv[1]) == "timed";
  options.base = argv[2];
  for (int i = 3; i < argc; i++) {
    const std::string word = argv[i];
    options.recorded |= word == "recorded";
    options.memory &= word != "no-memory";
  }
  return spkv_test::run(options);
}
