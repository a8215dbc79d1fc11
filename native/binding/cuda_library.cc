#include "binding/cuda_library.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#include <cstring>

namespace spkv {
namespace binding {

#if defined(_WIN32)

const CudaLibrary* open_cuda_library(const char*, Status* status) {
  *status = fail(Code::kDevice, "CUDA devices are not supported on Windows");
  return nullptr;
}

#else

const CudaLibrary* open_cuda_library(const char* path, Status* status) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    *status = fail(Code::kDevice, "The CUDA library could not be opened: %s", dlerror());
    return nullptr;
  }
  using Entry = const CudaLibrary* (*)();
  auto entry = reinterpret_cast<Entry>(dlsym(library, "spkv_cuda_library"));
  const CudaLibrary* table = entry ? entry() : nullptr;
  if (table && strcmp(table->version, SPKV_CUDA_VERSION) == 0) return table;
  *status = table ? fail(Code::kDevice, "The CUDA library is %s but this spkv needs %s: build it again (%s)",
                         table->version, SPKV_CUDA_VERSION, path)
                  : fail(Code::kDevice, "%s is not a CUDA library of spkv", path);
  dlclose(library);
  return nullptr;
}

#endif

}  // namespace binding
}  // namespace spkv
