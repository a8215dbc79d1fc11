// Barriers that count bytes (mbarrier), and copies to shared memory that complete on them. A copy is done as
// late as possible, when a thread waits for its barrier, and its target is NaN until then: so nobody can use
// what he has not waited for.
#pragma once

#include <cstdint>

namespace spkv_emulator {

void barrier_init(uint32_t barrier, uint32_t arrivals);
void barrier_arrive(uint32_t barrier, uint32_t arrivals, uint32_t expected_bytes);
// Returns once the phase of this parity has ended.
void barrier_wait(uint32_t barrier, uint32_t parity);

void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier);

// Copies of 16 bytes that only the thread that starts them waits for, by groups. Bytes behind the first
// `bytes` are written as 0.
void copy_16(uint32_t to, const void* from, uint32_t bytes);
void end_copy_group();
// Returns when at most `newest` groups of this thread are under way.
void wait_for_copy_groups(int newest);

}  // namespace spkv_emulator
