#include "binding/call.h"

#include <cstring>

#include "binding/overlap.h"

namespace spkv {
namespace binding {
namespace {

std::string dtype_names(unsigned dtypes) {
  std::string names;
  for (int i = 0; i < 4; i++) {
    if (!(dtypes & (1u << i))) continue;
    if (!names.empty()) names += " or ";
    names += dtype_name(static_cast<DType>(i));
  }
  return names;
}

std::string shape_text(const View& view) {
  std::string text = "[";
  for (int i = 0; i < view.rank; i++) text += (i ? ", " : "") + std::to_string(view.shape[i]);
  return text + "]";
}

// "T H D" has rank 3; letters stand at even places.
int rank_of(const char* shape) { return static_cast<int>((strlen(shape) + 1) / 2); }

}  // namespace

void Call::refuse(Code code, const std::string& message) {
  raise(env_, code, std::string(operation_) + ": " + message);
}

void Call::check(bool condition, Code code, const std::string& message) {
  if (!condition) refuse(code, message);
}

void Call::hold(const std::shared_ptr<DeviceState>& state, std::shared_ptr<void> resource, const char* name) {
  if (!state_) state_ = state;
  check(state_ == state, Code::kDevice,
        std::string(name) + " belongs to another device than the arguments before it");
  held_.push_back(std::move(resource));
}

unsigned Call::activation_types(const char* name) const {
  const auto& state = unwrap<TensorHandle>(env_, info_[index_], name).memory->state;
  return state && state->device->bf16_activations() ? kF32 | kBF16 : kF32;
}

View Call::activation(const char* name, const char* shape) {
  return tensor(name, activation_types(name), shape);
}

View Call::activation_output(const char* name, const char* shape) {
  return output(name, activation_types(name), shape);
}

View Call::tensor(const char* name, unsigned dtypes, const char* shape, bool packed) {
  return read(next(), name, dtypes, shape, packed, false);
}

View Call::output(const char* name, unsigned dtypes, const char* shape, bool packed) {
  Napi::Value value = next();
  View view = read(value, name, dtypes, shape, packed, true);
  check(!unwrap<TensorHandle>(env_, value, name).memory->storage->read_only, Code::kInvalidArgument,
        std::string("Expected a tensor that can be written for ") + name + " but it is mapped from a file");
  return view;
}

View Call::optional_output(const char* name, unsigned dtypes, const char* shape) {
  Napi::Value value = info_[index_];
  if (!value.IsNull() && !value.IsUndefined()) return output(name, dtypes, shape);
  index_++;
  return View();
}

View Call::optional_tensor(const char* name, unsigned dtypes, const char* shape) {
  Napi::Value value = next();
  if (value.IsNull() || value.IsUndefined()) return View();
  return read(value, name, dtypes, shape, false, false);
}

View Call::read(Napi::Value value, const char* name, unsigned dtypes, const char* shape, bool packed,
                bool written) {
  TensorHandle& handle = unwrap<TensorHandle>(env_, value, name);
  check(!handle.disposed(), Code::kDisposed,
        std::string("the tensor given for ") + name + " has been disposed");
  hold(handle.memory->state, handle.memory->storage, name);
  const View& view = handle.view;
  check((dtypes >> static_cast<int>(view.dtype)) & 1, Code::kDtype,
        "Expected " + dtype_names(dtypes) + " for " + name + " but received " + dtype_name(view.dtype));
  check(packed || view.layout == Layout::kStrided, Code::kDtype,
        std::string("Expected a plain tensor for ") + name +
            " but received a packed weight, which only matmul reads");
  check(view.rank == rank_of(shape), Code::kShape,
        std::string("Expected shape [") + shape + "] for " + name + " but received " + shape_text(view));
  for (int i = 0; i < view.rank; i++) {
    bind(shape[2 * i], view.shape[i],
         std::string("dimension ") + std::to_string(i) + " of " + name + " " + shape_text(view));
  }
  arguments_.push_back({name, view, written});
  return view;
}

void Call::bind(char letter, int64_t value, const std::string& where) {
  for (const Dimension& known : dimensions_) {
    if (known.letter != letter) continue;
    check(known.value == value, Code::kShape,
          std::string("Expected ") + letter + " = " + std::to_string(known.value) + " (" + known.where +
              ") but received " + std::to_string(value) + " (" + where + ")");
    return;
  }
  dimensions_.push_back({letter, value, where});
}

int64_t Call::dimension(char letter) const {
  for (const Dimension& known : dimensions_)
    if (known.letter == letter) return known.value;
  return 0;
}

int Call::rank(size_t index) const {
  int rank = unwrap<TensorHandle>(env_, info_[index], "the first argument").view.rank;
  return rank > 0 ? rank : 1;
}

double Call::number(const char* name) {
  Napi::Value value = next();
  double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  check(std::isfinite(number), Code::kInvalidArgument, std::string("Expected a finite number for ") + name);
  return number;
}

int64_t Call::integer(const char* name, int64_t min, int64_t max) {
  double value = number(name);
  check(value == std::floor(value) && value >= static_cast<double>(min) && value <= static_cast<double>(max),
        Code::kInvalidArgument,
        std::string("Expected an integer from ") + std::to_string(min) + " to " + std::to_string(max) +
            " for " + name + " but received " + Napi::Number::New(env_, value).ToString().Utf8Value());
  return static_cast<int64_t>(value);
}

bool Call::boolean(const char* name) {
  Napi::Value value = next();
  check(value.IsBoolean(), Code::kInvalidArgument, std::string("Expected true or false for ") + name);
  return value.As<Napi::Boolean>().Value();
}

View Call::contiguous(const char* name, bool written) {
  TensorHandle& handle = unwrap<TensorHandle>(env_, next(), name);
  check(!handle.disposed(), Code::kDisposed,
        std::string("the tensor given for ") + name + " has been disposed");
  check(!written || !handle.memory->storage->read_only, Code::kInvalidArgument,
        std::string("Expected a tensor that can be written for ") + name + " but it is mapped from a file");
  hold(handle.memory->state, handle.memory->storage, name);
  const View& view = handle.view;
  int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; stride *= view.shape[i--]) {
    check(view.layout == Layout::kStrided && (view.stride[i] == stride || view.shape[i] <= 1), Code::kShape,
          std::string("Expected elements that lie one after another for ") + name);
  }
  arguments_.push_back({name, view, written});
  return view;
}

CacheHandle& Call::cache(const char* name) {
  CacheHandle& handle = unwrap<CacheHandle>(env_, next(), name);
  check(handle.cache != nullptr, Code::kDisposed,
        std::string("the cache given for ") + name + " has been disposed");
  hold(handle.state, handle.cache, name);
  return handle;
}

const CacheGeometry& Call::bind_geometry(const Cache& cache) {
  const CacheGeometry& geometry = cache.geometry();
  bind('L', geometry.layers, "layers of the cache");
  bind('G', geometry.kv_heads, "KV heads of the cache");
  bind('D', geometry.head_dim, "head size of the cache");
  return geometry;
}

bool Call::may_share(const Argument& output, const Argument& input) const {
  if (!same_view(output.view, input.view)) return false;
  for (const InPlace& pair : in_place_)
    if (!strcmp(pair.output, output.name) && !strcmp(pair.input, input.name)) return true;
  return false;
}

void Call::check_overlaps() {
  for (const Argument& output : arguments_) {
    if (!output.written) continue;
    for (const Argument& other : arguments_) {
      if (&other == &output || !overlap(output.view, other.view) || may_share(output, other)) continue;
      refuse(Code::kInvalidArgument, std::string(output.name) + " must not overlap " + other.name);
    }
  }
}

}  // namespace binding
}  // namespace spkv
