// What the compiler calls for each access to memory under -fsanitize=thread. That library itself is not
// there: what orders the threads of the emulated device is not what orders those of the host.
#include "emulator/races.h"

#if defined(SPKV_EMULATED_RACES)

using namespace spkv_emulator::races;

#define SPKV_ACCESS(name, bytes, kind)                                  \
  extern "C" void name(void* at) {                                      \
    if (watching) access(at, bytes, kind, __builtin_return_address(0)); \
  }
#define SPKV_ACCESSES(bytes)                                         \
  SPKV_ACCESS(__tsan_read##bytes, bytes, kRead)                      \
  SPKV_ACCESS(__tsan_write##bytes, bytes, kWrite)                    \
  SPKV_ACCESS(__tsan_unaligned_read##bytes, bytes, kRead)            \
  SPKV_ACCESS(__tsan_unaligned_write##bytes, bytes, kWrite)          \
  SPKV_ACCESS(__tsan_volatile_read##bytes, bytes, kAtomic)           \
  SPKV_ACCESS(__tsan_volatile_write##bytes, bytes, kAtomicWrite)     \
  SPKV_ACCESS(__tsan_unaligned_volatile_read##bytes, bytes, kAtomic) \
  SPKV_ACCESS(__tsan_unaligned_volatile_write##bytes, bytes, kAtomicWrite)
SPKV_ACCESSES(1)
SPKV_ACCESSES(2)
SPKV_ACCESSES(4)
SPKV_ACCESSES(8)
SPKV_ACCESSES(16)

extern "C" {
void __tsan_read_range(void* at, size_t bytes) {
  if (watching) access(at, bytes, kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* at, size_t bytes) {
  if (watching) access(at, bytes, kWrite, __builtin_return_address(0));
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}

#endif
