// Stacks to switch between, all on one thread of the host.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace spkv_emulator {

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  // Stands for the stack that the host thread has of itself.
  void prepare_thread();
  // Readies a stack that lies in [bottom, bottom + bytes). `entry` begins with the first switch to it, and
  // never returns.
  void prepare(void* bottom, size_t bytes, void (*entry)());
  // Leaves the stack that is running, which is `from`, for this one.
  void resume_from(Fiber* from);
  // To be called first thing by `entry`.
  void arrived();

 private:
#if defined(__x86_64__)
  void* top_ = nullptr;  // saved registers, and what is below them
#else
  ucontext_t context_;
#endif
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
  void* fake_stack_ = nullptr;  // the address sanitizer's
};

}  // namespace spkv_emulator
