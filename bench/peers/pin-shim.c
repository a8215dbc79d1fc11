// Preloaded into the node-llama-cpp peer so that its two threads run on two cores.
//
// llama.cpp (the prebuilt binary, without OpenMP) makes a new helper thread in every llama_decode and meets it at
// spinning barriers. Where the scheduler leaves both on one core, each burns its time slice waiting for the other. This
// library watches pthread_create: a thread that libggml asks for starts on the second allowed core, and its creator is
// moved to the first. All other threads are left alone.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

typedef int (*create_fn)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);

static cpu_set_t nth_allowed(const cpu_set_t* allowed, int n) {
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET(cpu, allowed) && n-- == 0) CPU_SET(cpu, &one);
  }
  return one;
}

static cpu_set_t allowed_at_start;

__attribute__((constructor)) static void remember_allowed(void) {
  CPU_ZERO(&allowed_at_start);
  sched_getaffinity(0, sizeof allowed_at_start, &allowed_at_start);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attr, void* (*start)(void*), void* argument) {
  static create_fn real;
  if (!real) real = (create_fn)dlsym(RTLD_NEXT, "pthread_create");
  Dl_info caller;
  const int from_ggml = dladdr(__builtin_return_address(0), &caller) && caller.dli_fname && strstr(caller.dli_fname, "libggml");
  if (!from_ggml || attr || CPU_COUNT(&allowed_at_start) < 2) return real(thread, attr, start, argument);

  const cpu_set_t first = nth_allowed(&allowed_at_start, 0), second = nth_allowed(&allowed_at_start, 1);
  pthread_setaffinity_np(pthread_self(), sizeof first, &first);
  pthread_attr_t pinned;
  pthread_attr_init(&pinned);
  pthread_attr_setaffinity_np(&pinned, sizeof second, &second);
  const int status = real(thread, &pinned, start, argument);
  pthread_attr_destroy(&pinned);
  return status;
}
