// Devices, their streams and graphs.
#include "core/device.h"

#include "binding/addon.h"
#include "binding/completions.h"
#include "binding/cuda_library.h"
#include "binding/exports.h"
#include "cpu/device.h"

namespace spkv {
namespace binding {

DeviceHandle& device_argument(const Napi::CallbackInfo& info) {
  DeviceHandle& handle = unwrap<DeviceHandle>(info.Env(), info[0], "device");
  if (!handle.state) raise(info.Env(), Code::kDisposed, "The device has been closed");
  return handle;
}

namespace {

// A handle for a device that has just been opened.
Napi::Value adopt(Napi::Env env, std::shared_ptr<Device> device, const Status& status) {
  raise_if_failed(env, status);
  auto state = std::make_shared<DeviceState>();
  state->device = std::move(device);
  state->completions = Completions::create(env);
  // When the environment goes (the end of a worker, say), the stream must stop before the function that takes
  // its answers; hooks run in the reverse order of their registration, so this one runs first.
  auto* hook = new std::weak_ptr<DeviceState>(state);
  napi_add_env_cleanup_hook(
      env,
      [](void* data) {
        auto* weak = static_cast<std::weak_ptr<DeviceState>*>(data);
        if (auto alive = weak->lock()) alive->device->stream().stop();
        delete weak;
      },
      hook);
  auto handle = std::make_unique<DeviceHandle>();
  handle->state = std::move(state);
  return wrap(env, std::move(handle));
}

}  // namespace

// openCpuDevice(threads, pin, instructions) -> device. Threads 0, pin null and instructions "" mean the
// default.
Napi::Value open_cpu_device(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  CpuOptions options;
  options.threads = info[0].ToNumber().Int32Value();
  if (!info[1].IsNull()) options.pin = info[1].ToBoolean() ? Pin::kYes : Pin::kNo;
  options.instructions = info[2].ToString().Utf8Value();
  if (options.threads < 0 || options.threads > 1024) {
    raise(env, Code::kInvalidArgument, "Expected an integer from 0 to 1024 for threads");
  }
  Status status;
  auto device = spkv::open_cpu_device(options, &status);
  return adopt(env, std::move(device), status);
}

// openCudaDevice(libraryPath, ordinal, exact, timeProducts) -> device
Napi::Value open_cuda_device(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path = info[0].ToString().Utf8Value();
  CudaOptions options;
  options.ordinal = info[1].ToNumber().Int32Value();
  options.exact = info[2].ToBoolean();
  options.time_products = info[3].ToBoolean();
  if (options.ordinal < 0) raise(env, Code::kInvalidArgument, "Expected a non-negative integer for ordinal");
  Status status;
  const CudaLibrary* library = open_cuda_library(path.c_str(), &status);
  raise_if_failed(env, status);
  std::shared_ptr<Device> device(library->open(options, &status));
  return adopt(env, std::move(device), status);
}

Napi::Value describe_device(const Napi::CallbackInfo& info) {
  DeviceHandle& handle = device_argument(info);
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("name", handle.state->device->name());
  result.Set("description", handle.state->device->description());
  return result;
}

// freeMemory(device) -> bytes, or null where memory is only taken as it is filled
Napi::Value free_memory(const Napi::CallbackInfo& info) {
  int64_t bytes = device_argument(info).state->device->free_memory();
  return bytes < 0 ? info.Env().Null() : Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

Napi::Value close_device(const Napi::CallbackInfo& info) {
  unwrap<DeviceHandle>(info.Env(), info[0], "device").state.reset();
  return info.Env().Undefined();
}

// synchronize(device) -> promise, resolved when everything enqueued so far has run.
Napi::Value synchronize(const Napi::CallbackInfo& info) {
  DeviceHandle& handle = device_argument(info);
  return Completions::request(
      info.Env(), handle.state, [](Execution&) { return Status(); },
      [](Napi::Env env) { return env.Undefined(); });
}

Napi::Value begin_submission(const Napi::CallbackInfo& info) {
  Stream& stream = device_argument(info).state->device->stream();
  if (stream.submitting()) raise(info.Env(), Code::kInvalidArgument, "Submissions do not nest");
  auto handle = std::make_unique<SubmissionHandle>();
  handle->submission = stream.begin_submission();
  return wrap(info.Env(), std::move(handle));
}

Napi::Value end_submission(const Napi::CallbackInfo& info) {
  device_argument(info).state->device->stream().end_submission();
  return info.Env().Undefined();
}

Napi::Value cancel_submission(const Napi::CallbackInfo& info) {
  unwrap<SubmissionHandle>(info.Env(), info[0], "submission").submission->cancelled = true;
  return info.Env().Undefined();
}

Napi::Value busy_nanoseconds(const Napi::CallbackInfo& info) {
  return Napi::Number::New(
      info.Env(), static_cast<double>(device_argument(info).state->device->stream().busy_nanoseconds()));
}

Napi::Value begin_capture(const Napi::CallbackInfo& info) {
  Stream& stream = device_argument(info).state->device->stream();
  if (stream.capturing()) raise(info.Env(), Code::kInvalidArgument, "A graph is being captured already");
  stream.begin_capture();
  return info.Env().Undefined();
}

Napi::Value end_capture(const Napi::CallbackInfo& info) {
  DeviceHandle& device = device_argument(info);
  Stream& stream = device.state->device->stream();
  if (!stream.capturing()) raise(info.Env(), Code::kInvalidArgument, "No graph is being captured");
  auto handle = std::make_unique<GraphHandle>();
  handle->state = device.state;
  handle->graph = stream.end_capture();
  return wrap(info.Env(), std::move(handle));
}

Napi::Value launch(const Napi::CallbackInfo& info) {
  GraphHandle& handle = unwrap<GraphHandle>(info.Env(), info[0], "graph");
  if (!handle.graph) raise(info.Env(), Code::kDisposed, "The graph has been disposed");
  Stream& stream = handle.state->device->stream();
  if (stream.capturing())
    raise(info.Env(), Code::kInvalidArgument, "A graph cannot be launched during a capture");
  stream.launch(handle.graph);
  return info.Env().Undefined();
}

// disposeCapture(graph): lets go of the memory that it needs.
Napi::Value dispose_capture(const Napi::CallbackInfo& info) {
  unwrap<GraphHandle>(info.Env(), info[0], "graph").graph.reset();
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
