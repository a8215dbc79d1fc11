// Tests that data races are found: each kernel is right or has one thing left out, which must be told, and
// nothing else. `npm run build:cuda:emulated -- --races --tests`, then build-emulated-races/race_test.
#include <cstdio>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include "cuda/common/launch.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/common/tensor_copy.cuh"
#include "cuda/common/wgmma.cuh"

using namespace spkv::cuda;
namespace races = spkv_emulator::races;

namespace {

int failures = 0;

struct Memory {
  int* data;       // in global memory, of kNumbers
  float* numbers;  // of kNumbers
};
constexpr int kNumbers = 4096;

// What a kernel has in shared memory.
struct Shared {
  uint64_t barriers[4];
  alignas(1024) uint8_t tile[16384];
  int numbers[256];

  __device__ uint32_t barrier(int i) { return shared_address(barriers + i); }
};

__device__ Shared& shared() {
  uint8_t* start = dynamic_shared();
  return *reinterpret_cast<Shared*>(start + (1024 - shared_address(start) % 1024) % 1024);
}

__device__ void begin_barriers(int arrivals, bool ordered = true) {
  if (threadIdx.x == 0)
    for (int i = 0; i < 4; i++) barrier_init(shared().barrier(i), arrivals);
  if (ordered) __syncthreads();
}

__device__ int warp() { return static_cast<int>(threadIdx.x / 32); }
__device__ int lane() { return static_cast<int>(threadIdx.x % 32); }

// --- Barriers of the block and of warps.

__global__ void block_barrier_kernel(bool right, Memory) {
  int thread = static_cast<int>(threadIdx.x);
  shared().numbers[thread] = thread;
  if (right) __syncthreads();
  if (shared().numbers[thread ^ 32] < 0) shared().tile[0] = 1;
}

__global__ void named_barrier_kernel(bool right, Memory) {
  if (warp() == 0) shared().numbers[lane()] = 1;
  if (warp() < 2) named_barrier<1, 64>();
  int reader = right ? 1 : 2;  // which was not at the barrier
  if (warp() == reader && shared().numbers[lane()] < 0) shared().tile[0] = 1;
}

__global__ void warp_barrier_kernel(bool right, Memory) {
  shared().numbers[threadIdx.x] = lane();
  if (right) {
    __syncwarp();
  } else {
    __shfl_sync(~0u, lane(), 0);  // does not order memory
  }
  if (shared().numbers[threadIdx.x ^ 1] < 0) shared().tile[0] = 1;
}

__global__ void part_of_warp_kernel(bool right, Memory) {
  if (lane() == 0) shared().numbers[warp()] = 1;
  if (lane() < 8) __syncwarp(0xff);
  int reader = right ? 7 : 8;
  if (lane() == reader && shared().numbers[warp()] < 0) shared().tile[0] = 1;
}

__global__ void matrices_kernel(bool right, Memory) {
  if (warp() > 0) return;
  reinterpret_cast<uint4*>(shared().tile)[lane()] = make_uint4(0, 0, 0, 0);
  if (right) __syncwarp();
  uint32_t m[4];
  load_matrices(m, shared_address(shared().tile) + static_cast<uint32_t>(31 - lane()) * 16);
}

// --- mbarriers.

__global__ void fresh_barrier_kernel(bool right, Memory) {
  begin_barriers(64, right);
  barrier_arrive(shared().barrier(0));
}

__global__ void barrier_kernel(bool right, Memory) {
  begin_barriers(32);
  if (warp() == 0) {
    if (right) shared().numbers[lane()] = 1;
    barrier_arrive(shared().barrier(0));
    if (!right) shared().numbers[lane()] = 1;
  } else {
    barrier_wait(shared().barrier(0), 0);
    if (shared().numbers[lane()] < 0) shared().tile[0] = 1;
  }
}

// One lane arrives for all.
__global__ void elected_arrival_kernel(bool right, Memory) {
  begin_barriers(1);
  if (warp() == 0) {
    shared().numbers[lane()] = 1;
    if (right) __syncwarp();
    if (lane() == 0) barrier_arrive(shared().barrier(0));
  } else {
    barrier_wait(shared().barrier(0), 0);
    if (shared().numbers[lane()] < 0) shared().tile[0] = 1;
  }
}

// One lane waits for all.
__global__ void elected_wait_kernel(bool right, Memory) {
  begin_barriers(32);
  if (warp() == 0) {
    shared().numbers[lane()] = 1;
    barrier_arrive(shared().barrier(0));
  } else {
    if (lane() == 0) barrier_wait(shared().barrier(0), 0);
    if (right) __syncwarp();
    if (shared().numbers[lane()] < 0) shared().tile[0] = 1;
  }
}

// The first warp's writes come to the third through the second, which has waited for the first.
__global__ void chain_kernel(bool right, Memory) {
  begin_barriers(32);
  if (warp() == 0) {
    shared().numbers[lane()] = 1;
    barrier_arrive(shared().barrier(0));
  } else if (warp() == 1) {
    if (right) barrier_wait(shared().barrier(0), 0);
    barrier_arrive(shared().barrier(1));
  } else {
    barrier_wait(shared().barrier(1), 0);
    if (shared().numbers[lane()] < 0) shared().tile[0] = 1;
  }
  barrier_wait(shared().barrier(0), 0);
}

// A place that is used again: the writer has to wait for those who have read.
__global__ void reuse_kernel(bool right, Memory) {
  begin_barriers(32);
  for (uint32_t round = 0; round < 3; round++) {
    if (warp() == 0) {
      if (right) barrier_wait(shared().barrier(1), round % 2 ^ 1);
      shared().numbers[lane()] = static_cast<int>(round);
      if (!right) barrier_wait(shared().barrier(1), round % 2 ^ 1);
      barrier_arrive(shared().barrier(0));
    } else {
      barrier_wait(shared().barrier(0), round % 2);
      if (shared().numbers[lane()] < 0) shared().tile[0] = 1;
      barrier_arrive(shared().barrier(1));
    }
  }
}

// --- Copies.

__global__ void bulk_copy_kernel(bool right, Memory memory) {
  begin_barriers(1);
  if (threadIdx.x == 0) {
    barrier_arrive_expect(shared().barrier(0), 256);
    bulk_copy(shared_address(shared().tile), memory.data, 256, shared().barrier(0));
  }
  if (right || lane() == 0) barrier_wait(shared().barrier(0), 0);
  if (reinterpret_cast<int*>(shared().tile)[threadIdx.x] < 0) shared().numbers[threadIdx.x] = 1;
}

// Into what others still read.
__global__ void overwriting_copy_kernel(bool right, Memory memory) {
  begin_barriers(1);
  if (shared().tile[threadIdx.x] == 77) shared().numbers[threadIdx.x] = 1;
  if (right) __syncthreads();
  if (threadIdx.x == 0) {
    barrier_arrive_expect(shared().barrier(0), 256);
    bulk_copy(shared_address(shared().tile), memory.data, 256, shared().barrier(0));
    barrier_wait(shared().barrier(0), 0);
  }
}

// Behind what threads have written there, of which the copy engine has to be told.
__global__ void unpublished_copy_kernel(bool right, Memory memory) {
  begin_barriers(1);
  shared().tile[threadIdx.x] = 1;
  if (right) publish_shared();
  __syncthreads();
  if (threadIdx.x == 0) {
    barrier_arrive_expect(shared().barrier(0), 256);
    bulk_copy(shared_address(shared().tile), memory.data, 256, shared().barrier(0));
    barrier_wait(shared().barrier(0), 0);
  }
}

__global__ void small_copy_kernel(bool right, Memory memory) {
  uint32_t to = shared_address(shared().tile) + threadIdx.x * 16;
  copy_16(to, memory.data + threadIdx.x * 4, 16);
  end_copy_group();
  copy_16(to + 4096, memory.data + threadIdx.x * 4, 16);
  end_copy_group();
  if (right) wait_for_copy_groups<1>();
  if (shared().tile[threadIdx.x * 16] == 77) shared().numbers[threadIdx.x] = 1;
  wait_for_copy_groups<0>();
}

__global__ void bulk_addition_kernel(bool right, Memory memory) {
  auto* numbers = reinterpret_cast<float*>(shared().tile);
  numbers[threadIdx.x] = 1;
  publish_shared();
  __syncthreads();
  if (threadIdx.x > 0) return;
  bulk_add(memory.numbers, shared_address(numbers), 256);
  if (right) wait_for_bulk_reads();
  numbers[5] = 2;
}

// --- Matrix instructions.

__device__ void multiply(float (&d)[32]) {
  group_begin();
  group_multiply_add<false>(d, rows_along_sum(shared_address(shared().tile)),
                            rows_along_sum(shared_address(shared().tile) + 8192), false);
  group_end();
}

__global__ void matrix_kernel(bool right, Memory) {
  for (int i = 0; i < 128; i++) shared().tile[i * 128 + static_cast<int>(threadIdx.x)] = 0;
  publish_shared();
  __syncthreads();
  float d[32];
  multiply(d);
  if (right) group_wait<0>();
  __syncthreads();
  shared().tile[threadIdx.x] = 1;
  group_wait<0>();
}

__global__ void unpublished_matrix_kernel(bool right, Memory) {
  for (int i = 0; i < 128; i++) shared().tile[i * 128 + static_cast<int>(threadIdx.x)] = 0;
  if (right) publish_shared();
  __syncthreads();
  float d[32];
  multiply(d);
  group_wait<0>();
}

// --- Global memory.

__global__ void blocks_kernel(bool right, Memory memory) {
  if (right) {
    atomicAdd(memory.data, 1);
  } else if (threadIdx.x == 0) {
    memory.data[0] += 1;
  }
}

__global__ void volatile_kernel(bool right, Memory memory) {
  if (blockIdx.x > 0) {
    atomicMax(memory.data, 5);
  } else if (right) {
    if (*static_cast<volatile int*>(memory.data) == 77) shared().numbers[0] = 1;
  } else {
    if (*memory.data == 77) shared().numbers[1] = 1;
  }
}

__device__ void last_block_reads(Memory memory, bool release, bool acquire) {
  if (threadIdx.x > 0) return;
  memory.data[100 + blockIdx.x] = 1;
  if (release) __threadfence();
  bool last = atomicAdd(memory.data + 99, 1) % static_cast<int>(gridDim.x) == static_cast<int>(gridDim.x) - 1;
  if (acquire) __threadfence();
  for (unsigned i = 0; last && i < gridDim.x; i++)
    if (memory.data[100 + i] < 0) shared().numbers[0] = 1;
}

__global__ void release_kernel(bool right, Memory memory) { last_block_reads(memory, right, true); }
__global__ void acquire_kernel(bool right, Memory memory) { last_block_reads(memory, true, right); }

__global__ void scope_kernel(bool right, Memory memory) {
  if (threadIdx.x > 0) return;
  memory.data[100 + blockIdx.x] = 1;
  right ? __threadfence() : __threadfence_block();
  atomicAdd(memory.data, 1);
  __threadfence();
  if (memory.data[100] < 0) shared().numbers[0] = 1;
}

// Bytes of one word that threads have of their own.
__global__ void bytes_kernel(bool right, Memory) { shared().tile[right ? threadIdx.x : threadIdx.x / 2] = 1; }

// --- Launches.

__global__ void write_kernel(bool, Memory memory) { memory.data[threadIdx.x] = 3; }

__global__ void early_kernel(bool right, Memory memory) {
  if (right) wait_for_previous_launch();
  if (memory.data[threadIdx.x] == 77) shared().numbers[0] = 1;
  wait_for_previous_launch();
}

// Lets the next launch overtake the one before itself, or not.
__global__ void between_kernel(bool right, Memory) {
  if (right) wait_for_previous_launch();
  allow_next_launch();
  wait_for_previous_launch();
}

using Kernel = void(bool, Memory);

void start(Kernel* kernel, int blocks, int threads, bool right, Memory memory, bool early = false) {
  LaunchShape shape = {dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                       static_cast<int>(sizeof(Shared)) + 1024};
  shape.early = early;
  if (launch(nullptr, shape, kernel, right, memory) != cudaSuccess) failures++;
}

// Runs `action` as it should be, and with what is to be found; then as it should be, for racecheck.
template <typename Action>
void both(const std::string& name, bool racecheck_follows, const Action& action) {
  for (auto [right, racecheck] : {std::pair(true, false), std::pair(false, false), std::pair(true, true)}) {
    races::like_racecheck = racecheck;
    cudaDeviceSynchronize();
    action(right);
    bool none = racecheck ? racecheck_follows : right;
    if (races::take_reports().empty() == none) continue;
    failures++;
    printf("FAILED %s: %s\n", name.c_str(), none ? "races where there are none" : "no race where there is one");
  }
}

}  // namespace

int main() {
  if (!races::on()) {
    printf("race_test: not a build for races\n");
    return 2;
  }
  Memory memory;
  cudaMalloc(&memory.data, kNumbers * sizeof(int));
  cudaMalloc(&memory.numbers, kNumbers * sizeof(float));
  cudaMemset(memory.data, 0, kNumbers * sizeof(int));
  cudaMemset(memory.numbers, 0, kNumbers * sizeof(float));
  const struct {
    const char* name;
    Kernel* kernel;
    int blocks, threads;
    bool racecheck_follows = true;
  } kernels[] = {
      {"__syncthreads", block_barrier_kernel, 1, 64},
      {"a named barrier", named_barrier_kernel, 1, 96},
      {"__syncwarp", warp_barrier_kernel, 1, 64},
      {"__syncwarp of some lanes", part_of_warp_kernel, 1, 32},
      {"load_matrices", matrices_kernel, 1, 32},
      {"a fresh mbarrier", fresh_barrier_kernel, 1, 64},
      {"an mbarrier", barrier_kernel, 1, 64},
      {"an arrival for a warp", elected_arrival_kernel, 1, 64, false},
      {"a wait for a warp", elected_wait_kernel, 1, 64, false},
      {"a chain of mbarriers", chain_kernel, 1, 96},
      {"a place used again", reuse_kernel, 1, 64},
      {"a bulk copy", bulk_copy_kernel, 1, 64},
      {"a bulk copy into what is read", overwriting_copy_kernel, 1, 64},
      {"a bulk copy into what was written", unpublished_copy_kernel, 1, 64},
      {"a copy of 16 bytes", small_copy_kernel, 1, 64},
      {"a bulk addition", bulk_addition_kernel, 1, 64},
      {"a matrix instruction", matrix_kernel, 1, 128},
      {"operands of a matrix instruction", unpublished_matrix_kernel, 1, 128},
      {"blocks", blocks_kernel, 2, 32},
      {"a volatile access", volatile_kernel, 2, 1},
      {"the release of a fence", release_kernel, 3, 32},
      {"the acquisition of a fence", acquire_kernel, 3, 32},
      {"the scope of a fence", scope_kernel, 2, 32},
      {"bytes of a word", bytes_kernel, 1, 64},
  };
  for (const auto& test : kernels)
    both(test.name, test.racecheck_follows,
         [&](bool right) { start(test.kernel, test.blocks, test.threads, right, memory); });
  both("a launch that begins early", true, [&](bool right) {
    start(write_kernel, 1, 64, right, memory);
    start(early_kernel, 1, 64, right, memory, true);
  });
  both("a launch before the one ahead", true, [&](bool right) {
    start(write_kernel, 1, 64, right, memory);
    start(between_kernel, 2, 64, right, memory, true);
    start(early_kernel, 1, 64, false, memory, true);
  });
  printf("race_test: %d failed\n", failures);
  return failures > 0;
}
