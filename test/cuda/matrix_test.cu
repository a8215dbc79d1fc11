// The matrix instructions of wgmma.cuh against float64, one layout of operands at a time.
#include "cuda/common/launch.cuh"
#include "cuda/common/ptx.cuh"
#include "cuda/common/wgmma.cuh"
#include "support.cuh"
#include "tests.h"

namespace spkv_test {
namespace {

enum class Filled { kStores, kCopies, kBulk };

constexpr int kMostSum = 128, kRows = 128;                // of a: two warpgroups' worth
constexpr int kImageBytes = kMostSum / 64 * kRows * kRowBytes;  // of either operand

struct Operands {
  const uint8_t *a_image, *b_image;  // [kImageBytes] as they lie in shared memory
  const uint32_t* a;                 // [kRows][kMostSum] bf16, for registers
  float* out;                        // [64][N]
  int first_row, steps;              // the rows of a; the sum has 16 * steps terms
  bool add;                          // to what is in `out`
};

__device__ void fill(uint8_t* to, const uint8_t* from, Filled filled, uint64_t* barrier) {
  if (filled == Filled::kBulk) {
    if (threadIdx.x == 0) {
      barrier_init(shared_address(barrier), 1);
      barrier_init_fence();
      barrier_arrive_expect(shared_address(barrier), kImageBytes);
      bulk_copy(shared_address(to), from, kImageBytes, shared_address(barrier));
    }
    __syncthreads();
    barrier_wait(shared_address(barrier), 0);
    return;
  }
  for (int i = threadIdx.x * 16; i < kImageBytes; i += 128 * 16) {
    if (filled == Filled::kCopies) {
      copy_16(shared_address(to + i), from + i, 16);
    } else {
      *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
    }
  }
  end_copy_group();
  wait_for_copy_groups<0>();
  publish_shared();
  __syncthreads();
}

enum class Left { kRegisters, kAlong, kAcross };  // where a is, and how it lies there

template <int kColumns, Left kLeft, bool kTransposedB>
__global__ void __launch_bounds__(128) matrix_kernel(Operands p, Filled filled) {
  __shared__ uint64_t barriers[2];
  uint8_t* shared = dynamic_shared();
  shared += (1024 - shared_address(shared) % 1024) % 1024;
  fill(shared, p.a_image, filled, barriers);
  fill(shared + kImageBytes, p.b_image, filled, barriers + 1);
  int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  float d[kColumns / 2];
#pragma unroll
  for (int i = 0; i < kColumns / 2; i++)
    d[i] = p.out[(row + i / 2 % 2 * 8) * kColumns + i / 4 * 8 + lane % 4 * 2 + i % 2];
  SharedMatrix a = rows_along_sum(shared_address(shared) + p.first_row * kRowBytes);
  uint32_t b_address = shared_address(shared) + kImageBytes;
  for (int k = 0; k < p.steps; k++) {
    group_begin();
    bool add = p.add || k > 0;
    SharedMatrix b = kTransposedB
                         ? rows_across_sum(b_address + k / 4 * panels(kColumns) * kPanelBytes, kPanelBytes) +
                               k % 4 * 16 * kRowBytes
                         : rows_along_sum(b_address) + k / 4 * kColumns * kRowBytes + k % 4 * 32;
    if constexpr (kLeft == Left::kRegisters) {
      const uint32_t* from = p.a + ((p.first_row + row) * kMostSum + k * 16 + lane % 4 * 2) / 2;
      uint32_t fragment[4] = {from[0], from[8 * kMostSum / 2], from[4], from[8 * kMostSum / 2 + 4]};
      group_multiply_add<kTransposedB>(d, fragment, b, add);
    } else if constexpr (kLeft == Left::kAcross) {
      uint32_t panel = shared_address(shared) + p.first_row / 64 * kMostSum * kRowBytes;
      group_multiply_add<kTransposedB, true>(d, rows_across_sum(panel, kPanelBytes) + k * 16 * kRowBytes, b, add);
    } else {
      group_multiply_add<kTransposedB>(d, a + (k / 4 * kRows * kRowBytes + k % 4 * 32), b, add);
    }
    group_end();
    hold(d);
    group_wait<0>();
    hold(d);
  }
#pragma unroll
  for (int i = 0; i < kColumns / 2; i++)
    p.out[(row + i / 2 % 2 * 8) * kColumns + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
}

using Image = std::vector<uint8_t>;

void put(Image* image, size_t at, bf16 number) { memcpy(image->data() + at, &number, 2); }
// Where number `column` of row `row` lies in a panel.
size_t place(int row, int column) {
  return static_cast<size_t>(swizzled(row, column / kChunkDims)) + static_cast<size_t>(column % kChunkDims) * 2;
}

template <int kColumns, Left kLeft, bool kTransposedB>
void run_case(Filled filled, int first_row, int steps, bool add) {
  Random random(static_cast<uint64_t>(kColumns + steps));
  std::vector<bf16> a = random.normals(size_t{kRows} * kMostSum), b = random.normals(size_t{kColumns} * kMostSum);
  Image a_image(kImageBytes, 0xff), b_image(kImageBytes, 0xff);
  for (int k = 0; k < kMostSum; k++) {
    for (int row = 0; row < kRows; row++) {
      int panel = kLeft == Left::kAcross ? row / 64 * kMostSum * kRowBytes : k / 64 * kRows * kRowBytes;
      size_t in_panel = kLeft == Left::kAcross ? place(k, row % 64) : place(row, k % 64);
      put(&a_image, static_cast<size_t>(panel) + in_panel, a[row * kMostSum + k]);
    }
    for (int n = 0; n < kColumns; n++) {
      int panel = kTransposedB ? (k / 64 * panels(kColumns) + n / 64) * kPanelBytes : k / 64 * kColumns * kRowBytes;
      size_t in_panel = kTransposedB ? place(k % 64, n % 64) : place(n, k % 64);
      put(&b_image, static_cast<size_t>(panel) + in_panel, b[n * kMostSum + k]);
    }
  }
  DeviceArray<uint8_t> a_device(a_image), b_device(b_image);
  DeviceArray<bf16> a_rows(a);
  std::vector<float> before(64 * kColumns, add ? 3.0f : NAN);
  DeviceArray<float> out(before);
  Operands p = {a_device.get(), b_device.get(), reinterpret_cast<const uint32_t*>(a_rows.get()),
                out.get(),      first_row,      steps,
                add};
  LaunchShape shape;
  shape.block = dim3(128);
  shape.shared_bytes = 2 * kImageBytes + 1024;
  CHECK_CUDA(launch(nullptr, shape, matrix_kernel<kColumns, kLeft, kTransposedB>, p, filled));
  CHECK_CUDA(cudaDeviceSynchronize());
  std::vector<float> result = out.read();
  int wrong = 0;
  for (int row = 0; row < 64; row++) {
    for (int n = 0; n < kColumns; n++) {
      double sum = add ? 3 : 0, size = sum;
      for (int k = 0; k < steps * 16; k++) {
        double term = static_cast<double>(__bfloat162float(a[(first_row + row) * kMostSum + k])) *
                      __bfloat162float(b[n * kMostSum + k]);
        sum += term;
        size += std::abs(term);
      }
      if (!(std::abs(result[row * kColumns + n] - sum) <= 1e-5 * size)) wrong++;
    }
  }
  const char* const places[] = {"registers", "shared memory", "shared memory across"};
  const char* const ways[] = {"stores", "copies", "bulk copies"};
  char name[160];
  snprintf(name, sizeof(name), "matrix m64 n%d, a in %s, b %s, filled by %s, row %d, %d steps%s", kColumns,
           places[static_cast<int>(kLeft)], kTransposedB ? "across" : "along",
           ways[static_cast<int>(filled)], first_row, steps, add ? ", added" : "");
  printf("%s %s (%d of %d wrong)\n", wrong == 0 ? "pass" : "FAIL", name, wrong, 64 * kColumns);
  expect(wrong == 0, name);
}

template <int kColumns, Left kLeft, bool kTransposedB>
void run_cases() {
  for (int steps : {1, 2, 4, 5, 8}) run_case<kColumns, kLeft, kTransposedB>(Filled::kStores, 0, steps, false);
  run_case<kColumns, kLeft, kTransposedB>(Filled::kStores, 64, 8, true);
  run_case<kColumns, kLeft, kTransposedB>(Filled::kCopies, 64, 8, false);
  run_case<kColumns, kLeft, kTransposedB>(Filled::kBulk, 0, 8, false);
}

}  // namespace

void matrix_test() {
  run_cases<64, Left::kAlong, false>();
  run_cases<128, Left::kAlong, false>();
  run_cases<64, Left::kRegisters, true>();
  run_cases<128, Left::kRegisters, true>();
  run_cases<128, Left::kAlong, true>();
  run_cases<64, Left::kAcross, true>();
}

}  // namespace spkv_test
