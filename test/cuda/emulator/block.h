// How a kernel runs: the blocks of its grid one after another, and the threads of a block as fibers of one
// host thread. A thread runs until it has to wait, or ends. So a barrier that is missing shows: threads do
// not advance together by chance. The environment variable SPKV_EMULATED_ORDER says in which order blocks and
// threads start: `forward` (the default), `reverse`, or a number, from which an order is drawn.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/vectors.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace spkv_emulator {

struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  const char* parameters = "";  // for messages: a kernel's name cannot be had from its address
  bool early = false;           // it may begin before the launch ahead has ended
  void (*thread)(const void* closure) = nullptr;
  const void* closure = nullptr;
};

// Runs all threads of all blocks.
void run(const Launch& launch);

// Says what the kernel did wrong, and ends the process.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// A meeting of the lanes of a warp that are in `mask` and have not ended. Every lane brings a record; the
// last that comes calls `complete`, which sees the records of all lanes (null for the ones that are not
// there) and writes the results into them.
using Complete = void (*)(void* const* records);
// Only a meeting that `orders` makes what the lanes did before it visible to the others.
void meet(const char* what, uint32_t mask, void* record, Complete complete, bool orders = false);
uint32_t live_lanes();

// Waits until `wake` is called for the same address, which is in shared memory. `code` is where, for messages.
void wait_on(const char* what, const void* address, const void* code);
void wake(const void* address);
bool has_waiters(const void* address);

// Barrier `id` of the block among `threads` threads; 0 stands for all that have not ended.
void block_barrier(const char* what, int id, int threads, bool wait = true);

// The shared memory of the block, as the kernel asked for it at the launch.
uint8_t* dynamic_shared();
// Addresses of shared memory have 32 bits. Theirs count from a fixed place in this library, static arrays
// being at most 2 GiB from it.
uint32_t to_shared_address(const void* pointer);
uint8_t* from_shared_address(uint32_t address);

// To be called when the block has ended: whether anything is under way that nobody waited for.
using EndCheck = void (*)();
extern EndCheck end_check;

inline int thread_number() {
  return static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
}
inline int lane() { return thread_number() % 32; }

}  // namespace spkv_emulator
