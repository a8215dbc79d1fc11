// The cache and its sequences: every call is a request on the stream, answered in order.
#include "core/cache.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "binding/addon.h"
#include "binding/completions.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {
namespace {

CacheHandle& cache_argument(const Napi::CallbackInfo& info) {
  CacheHandle& handle = unwrap<CacheHandle>(info.Env(), info[0], "cache");
  if (!handle.cache) raise(info.Env(), Code::kDisposed, "The cache has been disposed");
  return handle;
}

int64_t integer_argument(const Napi::CallbackInfo& info, size_t index, const char* name, int64_t min,
                         int64_t max) {
  double value = info[index].IsNumber() ? info[index].As<Napi::Number>().DoubleValue() : NAN;
  if (!(value >= static_cast<double>(min) && value <= static_cast<double>(max)) ||
      value != std::floor(value)) {
    raise(info.Env(), Code::kInvalidArgument,
          std::string("Expected an integer from ") + std::to_string(min) + " to " + std::to_string(max) +
              " for " + name);
  }
  return static_cast<int64_t>(value);
}

int64_t head_dim_argument(const Napi::CallbackInfo& info, size_t index) {
  int64_t head_dim = integer_argument(info, index, "headDim", 2, 256);
  if (head_dim % 2 != 0) raise(info.Env(), Code::kShape, "Expected an even number for headDim");
  return head_dim;
}

DType dtype_argument(const Napi::CallbackInfo& info, size_t index) {
  DType dtype = static_cast<DType>(integer_argument(info, index, "dtype", 0, 4));
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kFP8)
    raise(info.Env(), Code::kDtype, "Expected f32, bf16 or fp8 for dtype");
  return dtype;
}

int32_t slot_argument(const Napi::CallbackInfo& info) {
  return static_cast<int32_t>(integer_argument(info, 1, "slot", 0, INT32_MAX));
}

Napi::Value number(Napi::Env env, int64_t value) {
  return Napi::Number::New(env, static_cast<double>(value));
}

// A request whose answer is the slot of a new sequence.
template <typename Make>
Napi::Value request_slot(const Napi::CallbackInfo& info, CacheHandle& handle, Make make) {
  auto slot = std::make_shared<int32_t>(-1);
  return Completions::request(
      info.Env(), handle.state,
      [slot, make, cache = handle.cache](Execution&) { return make(*cache, slot.get()); },
      [slot](Napi::Env env) { return number(env, *slot); });
}

class CountedCache {
 public:
  explicit CountedCache(std::unique_ptr<Cache> cache) : cache_(std::move(cache)) { live().caches++; }
  ~CountedCache() { live().caches--; }
  Cache* get() const { return cache_.get(); }

 private:
  std::unique_ptr<Cache> cache_;
};

}  // namespace

// pageBytes(device, headDim, dtype) -> bytes of a page of the pool
Napi::Value page_bytes(const Napi::CallbackInfo& info) {
  DeviceHandle& device = device_argument(info);
  CacheGeometry geometry;
  geometry.layers = geometry.kv_heads = geometry.window = geometry.capacity_pages = 1;
  geometry.head_dim = head_dim_argument(info, 1);
  geometry.dtype = dtype_argument(info, 2);
  return number(info.Env(), device.state->device->page_bytes(geometry));
}

// createCache(device, layers, kvHeads, headDim, window, slack, dtype, capacityPages) -> cache
Napi::Value create_cache(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  DeviceHandle& device = device_argument(info);
  CacheGeometry geometry;
  geometry.layers = integer_argument(info, 1, "layers", 1, 4096);
  geometry.kv_heads = integer_argument(info, 2, "kvHeads", 1, 4096);
  geometry.head_dim = head_dim_argument(info, 3);
  geometry.window = integer_argument(info, 4, "window", 1, 1 << 20);
  geometry.slack = integer_argument(info, 5, "slack", 0, 1 << 20);
  geometry.dtype = dtype_argument(info, 6);
  geometry.capacity_pages = integer_argument(info, 7, "capacityPages", 1, INT32_MAX);
  Status status;
  std::unique_ptr<Cache> cache = device.state->device->create_cache(geometry, &status);
  raise_if_failed(env, status);
  auto counted = std::make_shared<CountedCache>(std::move(cache));
  auto handle = std::make_unique<CacheHandle>();
  handle->state = device.state;
  handle->cache = std::shared_ptr<Cache>(counted, counted->get());
  return wrap(env, std::move(handle));
}

Napi::Value dispose_cache(const Napi::CallbackInfo& info) {
  CacheHandle& handle = unwrap<CacheHandle>(info.Env(), info[0], "cache");
  handle.cache.reset();
  handle.state.reset();
  return info.Env().Undefined();
}

Napi::Value pool_stats(const Napi::CallbackInfo& info) {
  CacheHandle& handle = cache_argument(info);
  auto stats = std::make_shared<PoolStats>();
  auto command = [stats, cache = handle.cache](Execution&) {
    *stats = cache->pool_stats();
    return Status();
  };
  auto result = [stats](Napi::Env env) -> Napi::Value {
    Napi::Object object = Napi::Object::New(env);
    object.Set("pageBytes", number(env, stats->page_bytes));
    object.Set("capacityPages", number(env, stats->capacity_pages));
    object.Set("usedPages", number(env, stats->used_pages));
    object.Set("peakPages", number(env, stats->peak_pages));
    object.Set("sequences", number(env, stats->sequences));
    return object;
  };
  return Completions::request(info.Env(), handle.state, command, result, true);
}

// createSequence(cache, threshold) -> promise of a slot
Napi::Value create_sequence(const Napi::CallbackInfo& info) {
  CacheHandle& handle = cache_argument(info);
  double threshold = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : NAN;
  if (!std::isfinite(threshold))
    raise(info.Env(), Code::kInvalidArgument, "Expected a finite number for threshold");
  return request_slot(info, handle, [threshold](Cache& cache, int32_t* slot) {
    return cache.create(static_cast<float>(threshold), slot);
  });
}

Napi::Value release_sequence(const Napi::CallbackInfo& info) {
  CacheHandle& handle = cache_argument(info);
  int32_t slot = slot_argument(info);
  return Completions::request(
      info.Env(), handle.state, [slot, cache = handle.cache](Execution&) { return cache->release(slot); },
      [](Napi::Env env) { return env.Undefined(); }, true);
}

Napi::Value fork_sequence(const Napi::CallbackInfo& info) {
  CacheHandle& handle = cache_argument(info);
  int32_t source = slot_argument(info);
  return request_slot(info, handle,
                      [source](Cache& cache, int32_t* slot) { return cache.fork(source, slot); });
}

Napi::Value rewind_sequence(const Napi::CallbackInfo& info) {
  CacheHandle& handle = cache_argument(info);
  int32_t slot = slot_argument(info);
  int64_t tokens = integer_argument(info, 2, "tokens", 0, INT32_MAX);
  return Completions::request(
      info.Env(), handle.state,
      [slot, tokens, cache = handle.cache](Execution&) { return cache->rewind(slot, tokens); },
      [](Napi::Env env) { return env.Undefined(); });
}

Napi::Value sequence_stats(const Napi::CallbackInfo& info) {
  CacheHandle& handle = cache_argument(info);
  int32_t slot = slot_argument(info);
  auto stats = std::make_shared<SequenceStats>();
  auto result = [stats](Napi::Env env) -> Napi::Value {
    Napi::Object object = Napi::Object::New(env);
    object.Set("length", number(env, stats->length));
    object.Set("threshold", Napi::Number::New(env, stats->threshold));
    object.Set("pages", number(env, stats->pages));
    object.Set("sharedPages", number(env, stats->shared_pages));
    Napi::Float64Array kept = Napi::Float64Array::New(env, stats->kept.size());
    for (size_t i = 0; i < stats->kept.size(); i++) kept[i] = static_cast<double>(stats->kept[i]);
    object.Set("kept", kept);
    return object;
  };
  return Completions::request(
      info.Env(), handle.state,
      [stats, slot, cache = handle.cache](Execution&) { return cache->sequence_stats(slot, stats.get()); },
      result);
}

// forecastSequences(cache, slots, tokens) -> promise of an Int32Array of pages [slots, tokens]
Napi::Value forecast_sequences(const Napi::CallbackInfo& info) {
  CacheHandle& handle = cache_argument(info);
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_int32_array)
    raise(info.Env(), Code::kInvalidArgument, "Expected an Int32Array for slots");
  Napi::Int32Array array = info[1].As<Napi::Int32Array>();
  std::vector<int32_t> slots(array.Data(), array.Data() + array.ElementLength());
  int64_t tokens = integer_argument(info, 2, "tokens", 0, 1 << 20);
  auto pages = std::make_shared<std::vector<int32_t>>();
  return Completions::request(
      info.Env(), handle.state,
      [pages, slots, tokens, cache = handle.cache](Execution&) {
        return cache->forecast(slots, tokens, pages.get());
      },
      [pages](Napi::Env env) -> Napi::Value {
        Napi::Int32Array result = Napi::Int32Array::New(env, pages->size());
        if (!pages->empty()) memcpy(result.Data(), pages->data(), pages->size() * sizeof(int32_t));
        return result;
      });
}

// saveSequence(cache, slot) -> promise of a Uint8Array
Napi::Value save_sequence(const Napi::CallbackInfo& info) {
  CacheHandle& handle = cache_argument(info);
  int32_t slot = slot_argument(info);
  auto bytes = std::make_shared<std::vector<uint8_t>>();
  return Completions::request(
      info.Env(), handle.state,
      [bytes, slot, cache = handle.cache](Execution&) { return cache->save(slot, bytes.get()); },
      [bytes](Napi::Env env) -> Napi::Value {
        Napi::Uint8Array array = Napi::Uint8Array::New(env, bytes->size());
        if (!bytes->empty()) memcpy(array.Data(), bytes->data(), bytes->size());
        return array;
      });
}

// restoreSequence(cache, bytes) -> promise of a slot
Napi::Value restore_sequence(const Napi::CallbackInfo& info) {
  CacheHandle& handle = cache_argument(info);
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    raise(info.Env(), Code::kInvalidArgument, "Expected a Uint8Array for bytes");
  }
  Napi::Uint8Array array = info[1].As<Napi::Uint8Array>();
  auto bytes = std::make_shared<std::vector<uint8_t>>(array.Data(), array.Data() + array.ByteLength());
  return request_slot(info, handle, [bytes](Cache& cache, int32_t* slot) {
    return cache.restore(bytes->data(), static_cast<int64_t>(bytes->size()), slot);
  });
}

Napi::Value poison_cache(const Napi::CallbackInfo& info) {
  CacheHandle& handle = cache_argument(info);
  return Completions::request(
      info.Env(), handle.state, [cache = handle.cache](Execution&) { return cache->poison(); },
      [](Napi::Env env) { return env.Undefined(); });
}

}  // namespace binding
}  // namespace spkv
