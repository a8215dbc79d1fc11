// Promises that the stream's thread answers. One thread-safe function per opened device; the process stays
// alive while something is awaited and not otherwise.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>

#include "binding/addon.h"

namespace spkv {
namespace binding {

class Completions {
 public:
  static std::shared_ptr<Completions> create(Napi::Env env);

  // Enqueues `command` on the device's stream and returns a promise. When the command has run, `result` makes
  // the value on the JavaScript thread; a failure rejects, and tells the stream that its failure is known.
  static Napi::Value request(Napi::Env env, const std::shared_ptr<DeviceState>& state, Command command,
                             std::function<Napi::Value(Napi::Env)> result, bool always = false);

  // No more answers; called when the environment or the last handle goes.
  void close();

 private:
  struct Pending;
  static void resolve(Napi::Env env, Pending& pending);
  static void settle(Napi::Env env, Pending* pending);

  int64_t waiting_ = 0;  // JavaScript thread only
  bool closed_ = false;
  napi_threadsafe_function function_ = nullptr;
};

}  // namespace binding
}  // namespace spkv
