// Tests of the emulator itself: that it computes what the device does, and that it does not let pass what
// would go wrong there. `npm run build:cuda:emulated -- --tests`, then build-emulated/emulator_test.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "cuda/common/launch.cuh"
#include "cuda/common/ptx.cuh"

using namespace spkv::cuda;

namespace {

int failures = 0;

void expect(bool good, const char* what) {
  if (good) return;
  failures++;
  printf("FAILED %s\n", what);
}

template <typename T>
struct Array {
  T* data = nullptr;
  size_t count;
  explicit Array(size_t count) : count(count) {
    cudaMalloc(&data, count * sizeof(T));
    cudaMemset(data, 0, count * sizeof(T));
  }
  ~Array() { cudaFree(data); }
  std::vector<T> read() const {
    std::vector<T> values(count);
    cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }
};

// Runs `action` in a process of its own; whether that ended with this message of the emulator.
template <typename Action>
bool ends_with(const char* message, const Action& action) {
  int ends[2];
  if (pipe(ends) != 0) return false;
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    action();
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[512];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof(buffer))) > 0;)
    text.append(buffer, static_cast<size_t>(got));
  close(ends[0]);
  int status;
  waitpid(child, &status, 0);
  return !(WIFEXITED(status) && WEXITSTATUS(status) == 0) && text.find(message) != std::string::npos;
}

// --- Collectives, against what lane i has to get from lanes that have the value i * i.

__global__ void collectives_kernel(int* out) {
  int lane = threadIdx.x, mine = lane * lane;
  int results[] = {__shfl_sync(~0u, mine, 5),        __shfl_up_sync(~0u, mine, 3),
                   __shfl_down_sync(~0u, mine, 3),   __shfl_xor_sync(~0u, mine, 8),
                   __shfl_xor_sync(~0u, mine, 1, 4), static_cast<int>(__ballot_sync(~0u, lane % 3 == 0)),
                   __any_sync(~0u, lane == 7),       __all_sync(~0u, lane < 31),
                   __reduce_add_sync(~0u, mine),     __reduce_max_sync(~0u, -mine)};
  for (int i = 0; i < 10; i++) out[i * 32 + lane] = results[i];
}

void collectives() {
  Array<int> out(320);
  launch(nullptr, {dim3(1), dim3(32)}, collectives_kernel, out.data);
  std::vector<int> got = out.read();
  unsigned thirds = 0;
  for (int i = 0; i < 32; i += 3) thirds |= 1u << i;
  bool good = true;
  for (int i = 0; i < 32; i++) {
    auto square = [](int j) { return j * j; };
    int up = i < 3 ? i : i - 3, down = i > 28 ? i : i + 3;
    int expected[] = {25,
                      square(up),
                      square(down),
                      square(i ^ 8),
                      square(i ^ 1),
                      static_cast<int>(thirds),
                      1,
                      0,
                      31 * 32 * 63 / 6,
                      0};
    for (int j = 0; j < 10; j++) good = good && got[static_cast<size_t>(j * 32 + i)] == expected[j];
  }
  expect(good, "collectives of a warp");
}

// --- A product of tiles, A [16, 16] and B [16, 8], from shared memory.

__global__ void product_kernel(float* out) {
  auto* tile =
      reinterpret_cast<__nv_bfloat16*>(dynamic_shared());  // [16, 16] of A, then [8, 16] of B transposed
  int lane = threadIdx.x;
  for (int i = lane; i < 24 * 16; i += 32) tile[i] = __float2bfloat16_rn(static_cast<float>(i * 7 % 13 - 6));
  __syncwarp();
  uint32_t a[4], b[4];
  load_matrices(a, shared_address(tile + lane % 16 * 16 + lane / 16 * 8));
  load_matrices(b, shared_address(tile + 256 + lane % 8 * 16 + lane / 8 % 2 * 8));
  float d[4] = {1, 1, 1, 1};
  multiply_add(d, a, b[0], b[1]);
  for (int i = 0; i < 4; i++) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

void product() {
  Array<float> out(128);
  launch(nullptr, {dim3(1), dim3(32), 24 * 32}, product_kernel, out.data);
  std::vector<float> got = out.read();
  bool good = true;
  for (int i = 0; i < 128; i++) {
    int sum = 1;
    for (int k = 0; k < 16; k++)
      sum += ((i / 8 * 16 + k) * 7 % 13 - 6) * ((256 + i % 8 * 16 + k) * 7 % 13 - 6);
    good = good && got[static_cast<size_t>(i)] == static_cast<float>(sum);
  }
  expect(good, "product of tiles");
}

// --- A block that copies, with and without waiting for it.

__global__ void copy_kernel(const float* from, float* out, bool wait) {
  uint8_t* shared = dynamic_shared();
  uint32_t barrier = shared_address(shared + 256);
  if (threadIdx.x == 0) {
    barrier_init(barrier, 1);
    barrier_arrive_expect(barrier, 256);
    bulk_copy(shared_address(shared), from, 256, barrier);
  }
  __syncthreads();
  if (wait) barrier_wait(barrier, 0);
  out[threadIdx.x] = reinterpret_cast<float*>(shared)[threadIdx.x];
  __syncthreads();
  barrier_wait(barrier, 0);
}

void copies() {
  Array<float> from(64), out(64);
  for (bool wait : {true, false}) {
    launch(nullptr, {dim3(1), dim3(64), 264}, copy_kernel, from.data, out.data, wait);
    bool zero = true, nan = true;
    for (float x : out.read()) zero = zero && x == 0, nan = nan && std::isnan(x);
    expect(wait ? zero : nan, wait ? "a copy has arrived" : "a copy that nobody waited for is NaN");
  }
}

// --- What must not pass.

__global__ void deadlock_kernel() {
  if (threadIdx.x < 32) named_barrier<1, 64>();
}

__global__ void waiting_kernel() {
  uint32_t barrier = shared_address(dynamic_shared());
  if (threadIdx.x == 0) barrier_init(barrier, 2);
  __syncthreads();
  barrier_arrive(barrier);
  barrier_wait(barrier, 0);
  if (threadIdx.x == 1) barrier_wait(barrier, 1);
}

__global__ void parted_kernel(int* out) {
  out[threadIdx.x] = threadIdx.x < 16 ? __shfl_sync(~0u, 1, 0) : __reduce_add_sync(~0u, 1);
}

__global__ void misaligned_kernel(const uint8_t* from) {
  uint32_t barrier = shared_address(dynamic_shared());
  barrier_init(barrier, 1);
  bulk_copy(barrier + 16, from + 4, 16, barrier);
}

__global__ void write_kernel(int* out, int value) { out[blockIdx.x * blockDim.x + threadIdx.x] = value; }

void failures_show() {
  expect(ends_with("deadlock",
                   [] {
                     launch(nullptr, {dim3(2), dim3(64)}, deadlock_kernel);
                   }),
         "a deadlock ends");
  expect(ends_with("1 threads wait at an mbarrier, for parity 1 (shared address 16, in ",
                   [] {
                     launch(nullptr, {dim3(1), dim3(2), 8}, waiting_kernel);
                   }),
         "it says who waits where");
  Array<int> out(32);
  expect(ends_with("part",
                   [&] {
                     launch(nullptr, {dim3(1), dim3(32)}, parted_kernel, out.data);
                   }),
         "lanes that part are found");
  Array<uint8_t> from(64);
  expect(ends_with("multiples of 16",
                   [&] {
                     launch(nullptr, {dim3(1), dim3(1), 64}, misaligned_kernel, from.data);
                   }),
         "a misaligned copy is found");
  int host = 0;
  expect(cudaMemcpy(&host, &host, 4, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue,
         "host memory is not a device's");
  expect(cudaMemcpy(&host, out.data + 32, 4, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue,
         "a copy too far");
  expect(launch(nullptr, {dim3(1), dim3(1025)}, write_kernel, out.data, 1) == cudaErrorInvalidConfiguration,
         "a block too large");
  int* fresh = nullptr;
  cudaMalloc(&fresh, 4);
  cudaMemcpy(&host, fresh, 4, cudaMemcpyDeviceToHost);
  expect(host == -1, "fresh memory is poisoned");
  cudaFree(fresh);
}

void graphs() {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaStreamCreate(&stream);
  Array<int> out(64);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  launch(stream, {dim3(2), dim3(32)}, write_kernel, out.data, 7);
  expect(cudaStreamEndCapture(stream, &graph) == cudaSuccess && out.read()[63] == 0,
         "a capture runs nothing");
  cudaGraphInstantiate(&executable, graph);
  cudaGraphLaunch(executable, stream);
  expect(out.read()[63] == 7, "a graph runs what was captured");
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  expect(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported,
         "waiting in a capture is an error");
  expect(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated, "and invalidates it");
  cudaStreamDestroy(stream);
}

}  // namespace

int main() {
  collectives();
  product();
  copies();
  graphs();
  failures_show();
  printf("emulator_test: %d failed\n", failures);
  return failures > 0;
}
