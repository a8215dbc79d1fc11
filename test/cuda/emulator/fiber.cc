#include "emulator/fiber.h"

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// spkv_switch_stack(void** save, void* load): what a function has to preserve goes to the stack that is left
// and comes from the one that is entered. Signal masks stay as they are: swapcontext would cost two calls of
// the system.
extern "C" void spkv_switch_stack(void** save, void* load);
asm(R"(
  .text
  .p2align 4
  .hidden spkv_switch_stack
  .globl spkv_switch_stack
  .type spkv_switch_stack, @function
spkv_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size spkv_switch_stack, .-spkv_switch_stack
)");
#endif

namespace spkv_emulator {

void Fiber::prepare_thread() {
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attributes;
  void* bottom = nullptr;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
  pthread_attr_getstack(&attributes, &bottom, &bytes_);
  pthread_attr_destroy(&attributes);
  bottom_ = bottom;
#endif
}

void Fiber::prepare(void* bottom, size_t bytes, void (*entry)()) {
  bottom_ = bottom;
  bytes_ = bytes;
#if defined(__x86_64__)
  // Six registers, the address to return to, and one word so that the stack is aligned at the entry.
  auto** top = reinterpret_cast<void**>(static_cast<char*>(bottom) + bytes) - 8;
  for (int i = 0; i < 8; i++) top[i] = nullptr;
  top[6] = reinterpret_cast<void*>(entry);
  top_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = bottom;
  context_.uc_stack.ss_size = bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::resume_from(Fiber* from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from->fake_stack_, bottom_, bytes_);
#endif
#if defined(__x86_64__)
  spkv_switch_stack(&from->top_, top_);
#else
  swapcontext(&from->context_, &context_);
#endif
  from->arrived();
}

void Fiber::arrived() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

}  // namespace spkv_emulator
