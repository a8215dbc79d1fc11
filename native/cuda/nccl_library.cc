#include "cuda/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>

namespace spkv {
namespace cuda {
namespace {

constexpr int kOldest = 21400;  // 2.14.0: communicators that do not block

const char* library_name() {
  const char* named = getenv("SPKV_NCCL");
  return named && *named ? named : "libnccl.so.2";
}

}  // namespace

Status NcclLibrary::check(int result, void* comm, const char* doing) const {
  if (result == kNcclSuccess) return Status();
  const char* words = ncclGetErrorString(result);
  const char* last = ncclGetLastError(comm);
  const bool misuse = result == kNcclInternalError || result == kNcclInvalidArgument;
  return fail(misuse ? Code::kInternal : Code::kRank, "NCCL failed while %s: %s%s%.120s%s", doing, words,
              last && *last ? " (" : "", last ? last : "", last && *last ? ")" : "");
}

Status open_nccl(NcclLibrary* library) {
  const char* name = library_name();
  void* opened = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!opened) {
    return fail(
        Code::kDevice,
        "Could not open NCCL (%s), through which GPUs train together: install it (package libnccl2, or "
        "nvidia-nccl of Python) or name the file in SPKV_NCCL",
        name);
  }
  int version = 0;
  library->ncclGetVersion = reinterpret_cast<int (*)(int*)>(dlsym(opened, "ncclGetVersion"));
  if (!library->ncclGetVersion || library->ncclGetVersion(&version) != kNcclSuccess)
    return fail(Code::kDevice, "%s is not NCCL: it does not tell its version", name);
  if (version < kOldest) {
    const int major = version / (version < 10000 ? 1000 : 10000);
    return fail(Code::kDevice, "Expected NCCL 2.14 or newer but %s is %d.%d: update it", name, major,
                version / 100 % (version < 10000 ? 10 : 100));
  }
#define SPKV_ENTRY(Result, function, parameters)                                               \
  library->function = reinterpret_cast<decltype(library->function)>(dlsym(opened, #function)); \
  if (!library->function) return fail(Code::kDevice, "%s (NCCL) has no function %s", name, #function);
  SPKV_NCCL(SPKV_ENTRY)
#undef SPKV_ENTRY
  return Status();
}

}  // namespace cuda
}  // namespace spkv
