// What every binding file shares: the state of one JavaScript environment, handles, and the error crossing.
#pragma once

#include <napi.h>

#include <atomic>
#include <memory>
#include <string>

#include "core/cache.h"
#include "core/communicator.h"
#include "core/device.h"
#include "core/status.h"

namespace spkv {
namespace binding {

// One per environment (main thread, each worker): nothing is shared between them.
struct Addon {
  Napi::FunctionReference error_class;  // SpkvError of lib/errors.ts, so that errors have the caller's realm
};

Addon& addon(Napi::Env env);

// The error as the JavaScript side knows it.
Napi::Value make_error(Napi::Env env, Code code, const std::string& message);
// Throws it; every check of the binding ends here.
[[noreturn]] void raise(Napi::Env env, Code code, const std::string& message);
void raise_if_failed(Napi::Env env, const Status& status);

// Completions: how the stream's thread answers a promise.
class Completions;

// Shared by all handles made from one opened device. Freed with the last of them, on the JavaScript thread.
struct DeviceState {
  ~DeviceState();
  std::shared_ptr<Device> device;
  std::shared_ptr<Completions> completions;
};

struct DeviceHandle {
  static constexpr napi_type_tag kTag = {0x53504b5600000001, 0xd2f1a7c04e6b9385};
  static constexpr const char* kName = "device";
  std::shared_ptr<DeviceState> state;
};

// What a tensor and its views have in common. Empty once the tensor has been disposed, and its views with it.
struct TensorMemory {
  std::shared_ptr<DeviceState> state;
  std::shared_ptr<Storage> storage;
};

struct TensorHandle {
  static constexpr napi_type_tag kTag = {0x53504b5600000002, 0x8b1e5d7f3a92c604};
  static constexpr const char* kName = "tensor";
  std::shared_ptr<TensorMemory> memory;  // never null
  bool is_view = false;
  View view;
  bool disposed() const { return memory->storage == nullptr; }
  int64_t charged = 0;  // bytes that the garbage collector was told of
};

struct CacheHandle {
  static constexpr napi_type_tag kTag = {0x53504b5600000003, 0x6c30f9e8b7d4125a};
  static constexpr const char* kName = "cache";
  std::shared_ptr<DeviceState> state;
  std::shared_ptr<Cache> cache;
};

struct CommunicatorHandle {
  static constexpr napi_type_tag kTag = {0x53504b5600000008, 0xb83d4f6e21a7c950};
  static constexpr const char* kName = "communicator";
  std::shared_ptr<DeviceState> state;
  std::shared_ptr<Communicator> communicator;
  const std::shared_ptr<Communicator>& resource() const { return communicator; }
};

struct GraphHandle {
  static constexpr napi_type_tag kTag = {0x53504b5600000004, 0x1f7a2b3c9d8e4605};
  static constexpr const char* kName = "graph";
  std::shared_ptr<DeviceState> state;
  std::shared_ptr<Graph> graph;
};

struct SubmissionHandle {
  static constexpr napi_type_tag kTag = {0x53504b5600000005, 0x94c6d8e1f2b3a750};
  static constexpr const char* kName = "submission";
  std::shared_ptr<Submission> submission;
};

// What the collector is told when a handle goes.
inline void collected(napi_env, const void*) {}
inline void collected(napi_env env, const TensorHandle* tensor) {
  int64_t ignored;
  if (tensor->charged) napi_adjust_external_memory(env, -tensor->charged, &ignored);
}

// Puts a handle into a type-tagged JavaScript object; the collector deletes it.
template <typename Handle>
Napi::Object wrap(Napi::Env env, std::unique_ptr<Handle> handle) {
  Napi::Object object = Napi::Object::New(env);
  napi_status status = napi_wrap(
      env, object, handle.get(),
      [](napi_env raw, void* data, void*) {
        std::unique_ptr<Handle> owned(static_cast<Handle*>(data));
        collected(raw, owned.get());
      },
      nullptr, nullptr);
  if (status == napi_ok) {
    // From here on the object owns it, also when the tag fails: in a worker that is being terminated, every
    // call of the API may.
    handle.release();
    status = napi_type_tag_object(env, object, &Handle::kTag);
  }
  if (status != napi_ok) raise(env, Code::kInternal, "Could not make a handle");
  return object;
}

// The handle in `value`, or an error naming `name`: a handle of another kind is refused by its tag.
template <typename Handle>
Handle& unwrap(Napi::Env env, Napi::Value value, const char* name) {
  bool tagged = false;
  void* data = nullptr;
  if (!value.IsObject() || napi_check_object_type_tag(env, value, &Handle::kTag, &tagged) != napi_ok ||
      !tagged || napi_unwrap(env, value, &data) != napi_ok) {
    raise(env, Code::kInvalidArgument, std::string("Expected a ") + Handle::kName + " for " + name);
  }
  return *static_cast<Handle*>(data);
}

// The device that is the first argument, as long as it is open.
DeviceHandle& device_argument(const Napi::CallbackInfo& info);

// With `charge`, the collector is told of the tensor's memory.
Napi::Object wrap_tensor(Napi::Env env, std::unique_ptr<TensorHandle> handle, bool charge);

// Live allocations made through the binding, for leak tests.
struct Live {
  std::atomic<int64_t> tensors{0};
  std::atomic<int64_t> bytes{0};
  std::atomic<int64_t> caches{0};
};
Live& live();

}  // namespace binding
}  // namespace spkv
