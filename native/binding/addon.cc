#include "binding/addon.h"

#include "binding/completions.h"
#include "binding/exports.h"
#include "core/thread_pool.h"

namespace spkv {
namespace binding {
namespace {

const char* code_name(Code code) {
  switch (code) {
    case Code::kOk:
      break;
    case Code::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case Code::kShape:
      return "SHAPE";
    case Code::kDtype:
      return "DTYPE";
    case Code::kDevice:
      return "DEVICE";
    case Code::kDisposed:
      return "DISPOSED";
    case Code::kOutOfMemory:
      return "OUT_OF_MEMORY";
    case Code::kPoolExhausted:
      return "POOL_EXHAUSTED";
    case Code::kNonFinite:
      return "NON_FINITE";
    case Code::kOutOfRange:
      return "OUT_OF_RANGE";
    case Code::kAborted:
      return "ABORTED";
    case Code::kFile:
      return "FILE";
    case Code::kUnsupported:
      return "UNSUPPORTED";
    case Code::kRank:
      return "RANK";
    case Code::kNative:
      return "NATIVE";
    case Code::kOnnxruntime:
      return "ONNXRUNTIME";
    case Code::kInternal:
      break;
  }
  return "INTERNAL";
}

// initialize(SpkvError): must be the first call.
void initialize(const Napi::CallbackInfo& info) {
  addon(info.Env()).error_class = Napi::Persistent(info[0].As<Napi::Function>());
}

Napi::Value live_allocations(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("tensors", Napi::Number::New(info.Env(), static_cast<double>(live().tensors)));
  result.Set("bytes", Napi::Number::New(info.Env(), static_cast<double>(live().bytes)));
  result.Set("caches", Napi::Number::New(info.Env(), static_cast<double>(live().caches)));
  return result;
}

Napi::Object start(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData<Addon>(new Addon());
  exports.Set("initialize", Napi::Function::New(env, initialize));
  exports.Set("liveAllocations", Napi::Function::New(env, live_allocations));
#define SPKV_EXPORT(name, function) exports.Set(#name, Napi::Function::New(env, function, #name));
  SPKV_EXPORTS(SPKV_EXPORT)
#undef SPKV_EXPORT
  return exports;
}

}  // namespace

Addon& addon(Napi::Env env) { return *env.GetInstanceData<Addon>(); }

Napi::Value make_error(Napi::Env env, Code code, const std::string& message) {
  return addon(env).error_class.New(
      {Napi::String::New(env, code_name(code)), Napi::String::New(env, message)});
}

void raise(Napi::Env env, Code code, const std::string& message) {
  throw Napi::Error(env, make_error(env, code, message));
}

void raise_if_failed(Napi::Env env, const Status& status) {
  if (!status.ok()) raise(env, status.code, status.message);
}

DeviceState::~DeviceState() {
  // Either is missing when opening the device failed.
  if (device) device->stream().stop();
  if (completions) completions->close();
}

Live& live() {
  static Live counters;
  return counters;
}

}  // namespace binding
}  // namespace spkv

static Napi::Object Init(Napi::Env env, Napi::Object exports) { return spkv::binding::start(env, exports); }

NODE_API_MODULE(spkv, Init)
