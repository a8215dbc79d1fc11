// Times the matrix products of a decode step, by spkv's own kernel and by cuBLASLt, and compares their results
// with float64 in a few places. Build and run, from the root of the repository:
//
//   cmake -S . -B build-cuda && cmake --build build-cuda
//   build-cuda/matmul_bench > matmul.jsonl       one JSON line for each product
//
// Products follow each other in a graph, each with a weight of its own that is not in the second-level cache.
#include <algorithm>

#include "cuda/few_rows_matmul.h"
#include "plain_context.h"

using namespace spkv_test;

namespace {

constexpr int kRepeats = 9;
constexpr int64_t kWeightBytes = int64_t{2} << 30;  // of all weights of a product together

class BenchContext : public PlainContext {
 public:
  BenchContext() : PlainContext(false) {
    CHECK_CUDA(cudaStreamCreate(&stream_));
    spkv::Status status;
    library_ = open_matrix_library(&status);
    if (!library_) fprintf(stderr, "%s\n", status.message), exit(1);
  }
  cudaStream_t stream() const override { return stream_; }
  MatrixLibrary& matrices() override { return *library_; }

 private:
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<MatrixLibrary> library_;
};

// Milliseconds of one of `count` calls in a graph: the median.
template <typename Call>
double time(BenchContext* context, int count, const Call& call) {
  call(0);
  CHECK_CUDA(cudaStreamSynchronize(context->stream()));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK_CUDA(cudaStreamBeginCapture(context->stream(), cudaStreamCaptureModeRelaxed));
  for (int i = 0; i < count; i++) call(i);
  CHECK_CUDA(cudaStreamEndCapture(context->stream(), &graph));
  CHECK_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin, end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i <= kRepeats; i++) {
    CHECK_CUDA(cudaEventRecord(begin, context->stream()));
    CHECK_CUDA(cudaGraphLaunch(executable, context->stream()));
    CHECK_CUDA(cudaEventRecord(end, context->stream()));
    CHECK_CUDA(cudaEventSynchronize(end));
    float milliseconds;
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i > 0) times.push_back(static_cast<double>(milliseconds) / count);
  }
  CHECK_CUDA(cudaGraphExecDestroy(executable));
  CHECK_CUDA(cudaGraphDestroy(graph));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void run(BenchContext* context, int64_t rows, int64_t columns, int64_t depth) {
  Random random(1);
  const int count = static_cast<int>(std::max<int64_t>(2, kWeightBytes / (columns * depth * 2)));
  std::vector<bf16> x = random.normals(static_cast<size_t>(rows * depth));
  std::vector<bf16> noise = random.normals(size_t{1} << 22);
  std::vector<bf16> weight(static_cast<size_t>(columns * depth));
  for (size_t i = 0; i < weight.size(); i++) weight[i] = noise[(i * 7 + i / depth * 13) % noise.size()];
  DeviceArray<bf16> device_x(x.size()), weights(weight.size() * static_cast<size_t>(count));
  DeviceArray<float> out(static_cast<size_t>(rows * columns));
  device_x.write(x);
  for (int i = 0; i < count; i++) {
    const bf16* from = i == 0 ? weight.data() : weights.get();
    CHECK_CUDA(cudaMemcpy(weights.get() + i * columns * depth, from, weight.size() * 2, cudaMemcpyDefault));
  }
  Product product;
  product.rows = rows, product.columns = columns, product.depth = depth;
  product.out = out.get(), product.out_stride = columns;
  product.x = device_x.get(), product.x_stride = depth;
  product.weight_stride = depth;
  product.packed = true;
  auto own = [&](int i) {
    product.weight = weights.get() + i * columns * depth;
    CHECK_CUDA(multiply_few_rows(product, *context));
  };
  auto library = [&](int i) {
    product.weight = weights.get() + i * columns * depth;
    spkv::Status status = context->matrices().multiply(product, *context);
    if (!status.ok()) fprintf(stderr, "%s\n", status.message), exit(1);
  };
  auto error = [&] {
    double worst = 0;
    const std::vector<float> result = out.read();
    for (int sample = 0; sample < 200; sample++) {
      const int64_t t = random.below(static_cast<int>(rows)), n = random.below(static_cast<int>(columns));
      double sum = 0, size = 0;
      for (int64_t k = 0; k < depth; k++) {
        const double term = static_cast<double>(__bfloat162float(x[t * depth + k])) *
                            static_cast<double>(__bfloat162float(weight[n * depth + k]));
        sum += term, size += std::abs(term);
      }
      worst = std::max(worst, std::abs(result[t * columns + n] - sum) / size);
    }
    return worst;
  };
  const double own_ms = time(context, count, own), own_error = error();
  const double library_ms = time(context, count, library), library_error = error();
  const double bytes = static_cast<double>(columns) * static_cast<double>(depth) * 2;
  printf(
      "{\"rows\": %d, \"columns\": %d, \"depth\": %d, \"us\": %.2f, \"GBps\": %.0f, \"error\": %.1e, "
      "\"cublasLtUs\": %.2f, \"cublasLtGBps\": %.0f, \"cublasLtError\": %.1e}\n",
      static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(depth), own_ms * 1e3,
      bytes / own_ms / 1e6, own_error, library_ms * 1e3, bytes / library_ms / 1e6, library_error);
  fflush(stdout);
}

}  // namespace

int main() {
  BenchContext context;
  // qkv with the predictor, o, gate and up, down of Llama-3-8B, a quarter of its head; the first four of Qwen3-0.6B.
  const int shapes[][2] = {{6400, 4096},   {4096, 4096}, {28672, 4096}, {4096, 14336},
                           {32064, 4096}, {4352, 1024}, {1024, 2048},  {6144, 1024}, {1024, 3072}};
  for (const auto& shape : shapes)
    for (int rows : {1, 16}) run(&context, rows, shape[0], shape[1]);
  return 0;
}
