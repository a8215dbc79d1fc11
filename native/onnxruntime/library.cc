#include "onnxruntime/library.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#include <cstring>
#include <map>
#include <memory>
#include <mutex>

namespace spkv {
namespace onnxruntime {
namespace {

// What the library's only entry gives.
struct ApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

const char* name_of(int code) {
  switch (code) {
    case kFailed:
      return "FAIL";
    case kInvalidArgument:
      return "INVALID_ARGUMENT";
    case kNoSuchFile:
      return "NO_SUCHFILE";
    case kNoModel:
      return "NO_MODEL";
    case kEngineError:
      return "ENGINE_ERROR";
    case kRuntimeException:
      return "RUNTIME_EXCEPTION";
    case kInvalidProtobuf:
      return "INVALID_PROTOBUF";
    case kModelLoaded:
      return "MODEL_LOADED";
    case kNotImplemented:
      return "NOT_IMPLEMENTED";
    case kInvalidGraph:
      return "INVALID_GRAPH";
    case kExecutionProviderFailed:
      return "EP_FAIL";
  }
  return "unknown code";
}

#if defined(_WIN32)

const ApiBase* open_base(const std::string&, Status* status) {
  *status = fail(Code::kNative, "Opening onnxruntime's library is not supported on Windows");
  return nullptr;
}

#else

const ApiBase* open_base(const std::string& path, Status* status) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    *status = fail(Code::kNative, "onnxruntime's library could not be opened: %s", dlerror());
    return nullptr;
  }
  using Entry = const ApiBase* (*)();
  auto entry = reinterpret_cast<Entry>(dlsym(library, "OrtGetApiBase"));
  if (!entry)
    *status =
        fail(Code::kNative, "%s is not a library of onnxruntime: it has no OrtGetApiBase", path.c_str());
  return entry ? entry() : nullptr;
}

#endif

}  // namespace

Code code_of(const char* message) {
  auto says = [message](const char* words) { return strstr(message, words) != nullptr; };
  if (says("is not a registered function/op") || says("Could not find an implementation for"))
    return Code::kUnsupported;
  if (says("that spkv does not know") || says("File doesn't exist") || says("Protobuf parsing failed"))
    return Code::kFile;
  return Code::kOnnxruntime;
}

const Library* Library::open(const std::string& path, Status* status) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<Library>> opened;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = opened.find(path);
  if (found != opened.end()) return found->second.get();
  const ApiBase* base = open_base(path, status);
  if (!base) return nullptr;
  const void* table = base->get_api(kApiVersion);
  if (!table) {
    *status = fail(Code::kNative, "onnxruntime %s in %s is too old: spkv needs 1.%u or newer",
                   base->get_version(), path.c_str(), kApiVersion);
    return nullptr;
  }
  std::unique_ptr<Library> library(new Library(table, base->get_version()));
  *status = library->take(library->api_.CreateEnv(kLogFatal, "spkv", &library->env_), "starting");
  if (!status->ok()) return nullptr;
  return (opened[path] = std::move(library)).get();
}

Status Library::take(OrtStatus* status, const char* doing) const {
  if (!status) return Status();
  int code = api_.GetErrorCode(status);
  const char* message = api_.GetErrorMessage(status);
  bool file = code == kNoSuchFile || code == kNoModel || code == kInvalidProtobuf;
  Code ours = file ? Code::kFile : code == kNotImplemented ? Code::kUnsupported : code_of(message);
  // What matters most stands at the end, behind paths.
  size_t length = strlen(message), most = 150;
  const char* cut = length > most ? "..." : "";
  message += length > most ? length - most : 0;
  Status result = fail(ours, "onnxruntime failed in %s (%s): %s%s", doing, name_of(code), cut, message);
  api_.ReleaseStatus(status);
  return result;
}

}  // namespace onnxruntime
}  // namespace spkv
