// Communicators: sums over the processes of a data-parallel run, see core/communicator.h.
#include "core/communicator.h"

#include <cstring>
#include <utility>

#include "binding/call.h"
#include "binding/completions.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {
namespace {

CommunicatorHandle& communicator_argument(const Napi::CallbackInfo& info) {
  CommunicatorHandle& handle = unwrap<CommunicatorHandle>(info.Env(), info[0], "communicator");
  if (!handle.communicator) raise(info.Env(), Code::kDisposed, "The communicator has been disposed");
  return handle;
}

void refuse_capture(const Napi::CallbackInfo& info, const CommunicatorHandle& handle) {
  if (handle.state->device->stream().capturing())
    raise(info.Env(), Code::kInvalidArgument, "Sums over ranks are not possible while a graph is captured");
}

}  // namespace

// communicatorId(device) -> Uint8Array
Napi::Value communicator_id(const Napi::CallbackInfo& info) {
  CommunicatorId id;
  raise_if_failed(info.Env(), device_argument(info).state->device->communicator_id(&id));
  Napi::Uint8Array bytes = Napi::Uint8Array::New(info.Env(), id.size());
  memcpy(bytes.Data(), id.data(), id.size());
  return bytes;
}

// createCommunicator(device, id, rank, size) -> communicator
Napi::Value create_communicator(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  DeviceHandle& device = device_argument(info);
  CommunicatorOptions options;
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array ||
      info[1].As<Napi::Uint8Array>().ByteLength() != options.id.size()) {
    raise(env, Code::kInvalidArgument,
          "Expected a Uint8Array of " + std::to_string(options.id.size()) + " bytes for id");
  }
  memcpy(options.id.data(), info[1].As<Napi::Uint8Array>().Data(), options.id.size());
  options.rank = info[2].ToNumber().Int32Value();
  options.size = info[3].ToNumber().Int32Value();
  if (options.size < 1) raise(env, Code::kInvalidArgument, "Expected an integer of at least 1 for size");
  if (options.rank < 0 || options.rank >= options.size) {
    raise(env, Code::kInvalidArgument,
          "Expected an integer from 0 to " + std::to_string(options.size - 1) + " for rank");
  }
  Status status;
  auto handle = std::make_unique<CommunicatorHandle>();
  handle->communicator = device.state->device->create_communicator(options, &status);
  raise_if_failed(env, status);
  handle->state = device.state;
  return wrap(env, std::move(handle));
}

// connectCommunicator(communicator) -> promise, resolved when all ranks have come
Napi::Value connect_communicator(const Napi::CallbackInfo& info) {
  CommunicatorHandle& handle = communicator_argument(info);
  return Completions::request(
      info.Env(), handle.state,
      [communicator = handle.communicator](Execution&) { return communicator->connect(); },
      [](Napi::Env env) { return env.Undefined(); });
}

// allReduce(communicator, x)
Napi::Value all_reduce(const Napi::CallbackInfo& info) {
  refuse_capture(info, communicator_argument(info));
  Call call(info, "allReduce");
  std::shared_ptr<Communicator> communicator = call.handle<CommunicatorHandle>("communicator").communicator;
  View x = call.output("x", kF32, "N");
  std::shared_ptr<Storage> storage = unwrap<TensorHandle>(info.Env(), info[1], "x").memory->storage;
  call.enqueue([communicator = std::move(communicator), x, storage = std::move(storage)](Execution&) {
    return communicator->all_reduce(x, storage);
  });
  return info.Env().Undefined();
}

// joinReductions(communicator)
Napi::Value join_reductions(const Napi::CallbackInfo& info) {
  CommunicatorHandle& handle = communicator_argument(info);
  refuse_capture(info, handle);
  handle.state->device->stream().enqueue(
      [communicator = handle.communicator](Execution&) { return communicator->join(); });
  return info.Env().Undefined();
}

// communicatorFailure(communicator): throws what has gone wrong, if anything has
Napi::Value communicator_failure(const Napi::CallbackInfo& info) {
  raise_if_failed(info.Env(), communicator_argument(info).communicator->failure());
  return info.Env().Undefined();
}

Napi::Value abort_communicator(const Napi::CallbackInfo& info) {
  communicator_argument(info).communicator->abort();
  return info.Env().Undefined();
}

// disposeCommunicator(communicator) -> promise. It ends on the stream's thread, which may wait for other
// ranks.
Napi::Value dispose_communicator(const Napi::CallbackInfo& info) {
  CommunicatorHandle& handle = communicator_argument(info);
  auto last = std::make_shared<std::shared_ptr<Communicator>>(std::move(handle.communicator));
  handle.communicator.reset();
  auto state = std::move(handle.state);
  handle.state.reset();
  return Completions::request(
      info.Env(), state,
      [last](Execution&) {
        last->reset();
        return Status();
      },
      [](Napi::Env env) { return env.Undefined(); }, true);
}

}  // namespace binding
}  // namespace spkv
