#include "binding/completions.h"

#include <string>
#include <utility>

namespace spkv {
namespace binding {

struct Completions::Pending {
  Napi::Promise::Deferred deferred;
  std::function<Napi::Value(Napi::Env)> result;
  std::shared_ptr<DeviceState> state;
  Status status;
  uint64_t failure = 0;
};

std::shared_ptr<Completions> Completions::create(Napi::Env env) {
  auto completions = std::make_shared<Completions>();
  // The function owns a reference, released by its finalizer.
  auto* context = new std::shared_ptr<Completions>(completions);
  napi_value name;
  napi_create_string_utf8(env, "spkv", NAPI_AUTO_LENGTH, &name);
  napi_status status = napi_create_threadsafe_function(
      env, nullptr, nullptr, name, 0, 1, nullptr,
      [](napi_env, void*, void* hint) {
        auto* owner = static_cast<std::shared_ptr<Completions>*>(hint);
        (*owner)->closed_ = true;
        delete owner;
      },
      context,
      // May come after the finalizer, with no environment, for what was left in the queue.
      [](napi_env raw, napi_value, void*, void* data) { settle(raw, static_cast<Pending*>(data)); },
      &completions->function_);
  if (status != napi_ok) {
    delete context;
    raise(env, Code::kInternal, "Could not create a thread-safe function");
  }
  napi_unref_threadsafe_function(env, completions->function_);
  return completions;
}

void Completions::close() {
  if (closed_) return;
  closed_ = true;
  napi_release_threadsafe_function(function_, napi_tsfn_release);
}

Napi::Value Completions::request(Napi::Env env, const std::shared_ptr<DeviceState>& state, Command command,
                                 std::function<Napi::Value(Napi::Env)> result, bool always) {
  Stream& stream = state->device->stream();
  if (stream.capturing())
    raise(env, Code::kInvalidArgument, "Reading back is not possible while a graph is captured");
  auto* pending = new Pending{Napi::Promise::Deferred::New(env), std::move(result), state, Status(), 0};
  Napi::Promise promise = pending->deferred.Promise();
  Completions* self = state->completions.get();
  if (self->waiting_++ == 0) napi_ref_threadsafe_function(env, self->function_);
  stream.request(
      std::move(command),
      [pending, function = self->function_](const Status& status, uint64_t failure) {
        pending->status = status;
        pending->failure = failure;
        // While the environment shuts down nobody is left to answer; the little record is left behind.
        napi_call_threadsafe_function(function, pending, napi_tsfn_nonblocking);
      },
      always);
  return promise;
}

void Completions::resolve(Napi::Env env, Pending& pending) {
  try {
    pending.deferred.Resolve(pending.result(env));
  } catch (const Napi::Error& error) {
    pending.deferred.Reject(error.Value());
  }
}

void Completions::settle(Napi::Env env, Pending* raw) {
  std::unique_ptr<Pending> pending(raw);
  if (static_cast<napi_env>(env) == nullptr) return;
  Napi::HandleScope scope(env);
  Completions* self = pending->state->completions.get();
  if (--self->waiting_ == 0) napi_unref_threadsafe_function(env, self->function_);
  if (pending->failure != 0) pending->state->device->stream().acknowledge(pending->failure);
  // When a worker is terminated, JavaScript can no longer be called: then nobody is left to be told.
  try {
    if (pending->status.ok()) {
      resolve(env, *pending);
    } else {
      pending->deferred.Reject(make_error(env, pending->status.code, pending->status.message));
    }
  } catch (const Napi::Error&) {
  }
}

}  // namespace binding
}  // namespace spkv
