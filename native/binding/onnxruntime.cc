// Graphs that onnxruntime runs: as a whole within the process, or in parts by another one.
#include "binding/call.h"
#include "binding/completions.h"
#include "binding/exports.h"
#include "onnxruntime/channel.h"
#include "onnxruntime/library.h"
#include "onnxruntime/session.h"

namespace spkv {
namespace binding {
namespace {

struct GraphSessionHandle {
  static constexpr napi_type_tag kTag = {0x53504b5600000006, 0x3e0c95d7a1b8f264};
  static constexpr const char* kName = "graph session";
  std::shared_ptr<DeviceState> state;
  std::shared_ptr<onnxruntime::Session> session;
  const std::shared_ptr<onnxruntime::Session>& resource() const { return session; }
};

struct ChannelHandle {
  static constexpr napi_type_tag kTag = {0x53504b5600000007, 0xa94d61f02c7be385};
  static constexpr const char* kName = "channel";
  std::shared_ptr<DeviceState> state;
  std::shared_ptr<onnxruntime::Channel> channel;
  const std::shared_ptr<onnxruntime::Channel>& resource() const { return channel; }
};

// The cache and the operator's memory are the CPU's.
DeviceHandle& cpu_argument(const Napi::CallbackInfo& info) {
  DeviceHandle& device = device_argument(info);
  std::string name = device.state->device->name();
  if (name != "cpu")
    raise(info.Env(), Code::kDevice,
          "Expected the CPU for device: onnxruntime's graphs do not run on " + name);
  return device;
}

}  // namespace

// openGraph(device, libraryPath, graphPath, threads) -> promise of a graph session
Napi::Value open_graph(const Napi::CallbackInfo& info) {
  auto& state = cpu_argument(info).state;
  auto session = std::make_shared<std::shared_ptr<onnxruntime::Session>>();
  auto command = [session, library_path = info[1].ToString().Utf8Value(),
                  graph_path = info[2].ToString().Utf8Value(),
                  threads = info[3].ToNumber().Int32Value()](Execution& execution) {
    Status status;
    const auto* library = onnxruntime::Library::open(library_path, &status);
    if (library) *session = onnxruntime::Session::open(library, graph_path, threads, execution, &status);
    return status;
  };
  auto result = [session, state](Napi::Env env) -> Napi::Value {
    auto handle = std::make_unique<GraphSessionHandle>();
    handle->state = state;
    handle->session = std::move(*session);
    return wrap(env, std::move(handle));
  };
  return Completions::request(info.Env(), state, command, result);
}

// runGraph(logits | null, keys, values, utilities | null, session, cache, ids, positions, slots, offsets,
//          rows | null, vocabulary)
Napi::Value run_graph(const Napi::CallbackInfo& info) {
  Call call(info, "runGraph");
  onnxruntime::RunParams params;
  params.logits = call.optional_output("logits", kF32, "N V");
  params.keys = call.output("keys", kF32, "L T G D");
  params.values = call.output("values", kF32, "L T G D");
  params.utilities = call.optional_output("utilities", kF32, "L T G");
  auto session = call.handle<GraphSessionHandle>("session").session;
  params.cache = call.cache("cache").cache.get();
  const CacheGeometry& geometry = call.bind_geometry(*params.cache);
  params.ids = call.tensor("ids", kI32, "T");
  params.positions = call.tensor("positions", kI32, "T");
  call.batch(&params);
  params.rows = call.optional_tensor("rows", kI32, "N");
  params.vocabulary = call.integer("vocabulary", 1, INT32_MAX);
  params.operations = &call.operations();
  call.check(!params.rows || params.logits, Code::kInvalidArgument,
             "Expected no rows where there are no logits");
  call.check(params.rows || call.dimension('N') <= call.dimension('T'), Code::kShape,
             "Expected no more rows of logits than tokens");
  int64_t row = geometry.kv_heads * geometry.head_dim;
  call.check((!params.logits || params.logits.stride[0] == params.logits.shape[1]) &&
                 params.keys.stride[1] == row && params.values.stride[1] == row &&
                 (!params.utilities || params.utilities.stride[1] == geometry.kv_heads),
             Code::kShape, "Expected rows that lie one after another");
  call.enqueue([params, session](Execution& execution) { return session->run(params, execution); });
  return info.Env().Undefined();
}

Napi::Value dispose_graph(const Napi::CallbackInfo& info) {
  auto& handle = unwrap<GraphSessionHandle>(info.Env(), info[0], "session");
  handle.session.reset();
  handle.state.reset();
  return info.Env().Undefined();
}

// openChannel(device) -> { channel, farEnd }: farEnd is the descriptor that the other process is to be given
Napi::Value open_channel(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto handle = std::make_unique<ChannelHandle>();
  handle->state = cpu_argument(info).state;
  Status status;
  handle->channel = onnxruntime::Channel::open(&status);
  raise_if_failed(env, status);
  Napi::Object result = Napi::Object::New(env);
  result.Set("farEnd", Napi::Number::New(env, handle->channel->far_end()));
  result.Set("channel", wrap(env, std::move(handle)));
  return result;
}

// greetChannel(channel) -> promise, resolved when the other process is ready. It has been given the far end
// by now, which is closed here.
Napi::Value greet_channel(const Napi::CallbackInfo& info) {
  auto& handle = unwrap<ChannelHandle>(info.Env(), info[0], "channel");
  if (!handle.channel) raise(info.Env(), Code::kDisposed, "The channel has been disposed");
  handle.channel->close_far_end();
  return Completions::request(
      info.Env(), handle.state,
      [channel = handle.channel](Execution& execution) { return channel->greet(execution); },
      [](Napi::Env env) { return env.Undefined(); });
}

// exchange(channel, part, tokens, rows, outputCount, ...outputs, ...inputs)
Napi::Value exchange(const Napi::CallbackInfo& info) {
  Call call(info, "exchange");
  onnxruntime::ExchangeParams params;
  auto channel = call.handle<ChannelHandle>("channel").channel;
  params.part = static_cast<uint32_t>(call.integer("part", 0, INT32_MAX));
  params.tokens = static_cast<uint32_t>(call.integer("tokens", 0, INT32_MAX));
  params.rows = static_cast<uint32_t>(call.integer("rows", 0, INT32_MAX));
  int64_t outputs = call.integer("outputCount", 0, INT32_MAX), first = 5;
  for (int64_t i = first; i < static_cast<int64_t>(info.Length()); i++) {
    bool written = i < first + outputs;
    (written ? params.outputs : params.inputs)
        .push_back(call.contiguous(written ? "outputs" : "inputs", written));
  }
  call.in_place("outputs", "inputs");  // all inputs are sent before an output is received
  call.enqueue([params, channel](Execution& execution) { return channel->exchange(params, execution); });
  return info.Env().Undefined();
}

Napi::Value dispose_channel(const Napi::CallbackInfo& info) {
  auto& handle = unwrap<ChannelHandle>(info.Env(), info[0], "channel");
  handle.channel.reset();
  handle.state.reset();
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
