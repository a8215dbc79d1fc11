// Tensor handles: creation, views, reading and writing.
#include <algorithm>
#include <cstring>
#include <vector>

#include "binding/addon.h"
#include "binding/completions.h"
#include "binding/exports.h"

namespace spkv {
namespace binding {
namespace {

// Far above any real tensor, far below overflow.
constexpr int64_t kMaxBytes = int64_t{1} << 46;

DType dtype_argument(const Napi::CallbackInfo& info, size_t index) {
  int32_t value = info[index].ToNumber().Int32Value();
  if (value < 0 || value > 3) raise(info.Env(), Code::kDtype, "Expected f32, bf16, i32 or u8 for dtype");
  return static_cast<DType>(value);
}

// A non-negative integer from JavaScript, whatever was passed.
int64_t count_argument(Napi::Env env, Napi::Value value, const char* name) {
  double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= static_cast<double>(kMaxBytes)) ||
      number != static_cast<double>(static_cast<int64_t>(number))) {
    raise(env, Code::kInvalidArgument, std::string("Expected a non-negative integer for ") + name);
  }
  return static_cast<int64_t>(number);
}

void shape_argument(Napi::Env env, Napi::Value value, View* view) {
  if (!value.IsArray()) raise(env, Code::kShape, "Expected an array for shape");
  Napi::Array shape = value.As<Napi::Array>();
  uint32_t rank = shape.Length();
  if (rank < 1 || rank > View::kMaxRank) raise(env, Code::kShape, "Expected 1 to 4 dimensions for shape");
  view->rank = static_cast<int>(rank);
  int64_t size = 1;
  for (uint32_t i = 0; i < rank; i++) {
    view->shape[i] = count_argument(env, shape.Get(i), "each dimension of shape");
    if (view->shape[i] > 0 && size > kMaxBytes / view->shape[i])
      raise(env, Code::kShape, "The shape is too large");
    size *= view->shape[i] > 0 ? view->shape[i] : 1;
  }
  int64_t stride = 1;
  for (int i = view->rank - 1; i >= 0; i--) {
    view->stride[i] = stride;
    stride *= view->shape[i];
  }
}

TensorHandle& tensor_argument(const Napi::CallbackInfo& info, size_t index = 0) {
  TensorHandle& handle = unwrap<TensorHandle>(info.Env(), info[index], "tensor");
  if (handle.disposed()) raise(info.Env(), Code::kDisposed, "The tensor has been disposed");
  return handle;
}

// Counts a storage as live for as long as it exists.
class CountedStorage : public Storage {
 public:
  explicit CountedStorage(std::shared_ptr<Storage> inner) : inner_(std::move(inner)) {
    data = inner_->data;
    bytes = inner_->bytes;
    live().tensors++;
    live().bytes += bytes;
  }
  ~CountedStorage() override {
    live().tensors--;
    live().bytes -= bytes;
  }

 private:
  std::shared_ptr<Storage> inner_;
};

// A tensor that begins where its memory does.
Napi::Value tensor_over(Napi::Env env, TensorMemory memory, const View& view, bool charge) {
  auto handle = std::make_unique<TensorHandle>();
  handle->view = view;
  handle->view.data = memory.storage->data;
  handle->memory = std::make_shared<TensorMemory>(std::move(memory));
  return wrap_tensor(env, std::move(handle), charge);
}

Napi::Value allocate(Napi::Env env, const std::shared_ptr<DeviceState>& state, View view, int64_t bytes) {
  if (bytes > kMaxBytes) raise(env, Code::kShape, "The shape is too large");
  std::shared_ptr<Storage> storage = state->device->allocate(bytes);
  if (!storage) raise(env, Code::kOutOfMemory, "Could not allocate " + std::to_string(bytes) + " bytes");
  return tensor_over(env, {state, std::make_shared<CountedStorage>(std::move(storage))}, view, true);
}

// Calls visit(offset, bytes) for every contiguous row of a strided view, in order.
template <typename Visit>
void for_each_row(const View& view, const Visit& visit) {
  if (view.size() == 0) return;
  int64_t element = dtype_bytes(view.dtype), row = view.shape[view.rank - 1];
  int64_t rows = view.size() / row;
  for (int64_t r = 0; r < rows; r++) {
    int64_t rest = r, offset = 0;
    for (int i = view.rank - 2; i >= 0; i--) {
      offset += rest % view.shape[i] * view.stride[i];
      rest /= view.shape[i];
    }
    visit(offset * element, row * element);
  }
}

}  // namespace

Napi::Object wrap_tensor(Napi::Env env, std::unique_ptr<TensorHandle> handle, bool charge) {
  if (charge) {
    handle->charged = handle->memory->storage->bytes;
    Napi::MemoryManagement::AdjustExternalMemory(env, handle->charged);
  }
  return wrap(env, std::move(handle));
}

// createTensor(device, dtype, shape) -> tensor, filled with zeros.
Napi::Value create_tensor(const Napi::CallbackInfo& info) {
  View view;
  view.dtype = dtype_argument(info, 1);
  shape_argument(info.Env(), info[2], &view);
  return allocate(info.Env(), device_argument(info).state, view, view.size() * dtype_bytes(view.dtype));
}

// createPacked(device, dtype, n, k) -> tensor in the packed layout, to be filled by packWeight.
Napi::Value create_packed(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  View view;
  view.dtype = dtype_argument(info, 1);
  view.layout = Layout::kPacked;
  view.rank = 2;
  view.shape[0] = view.stride[1] = 0;
  view.shape[0] = count_argument(env, info[2], "n");
  view.shape[1] = count_argument(env, info[3], "k");
  view.stride[0] = view.shape[1];
  view.stride[1] = 1;
  if (view.dtype != DType::kF32 && view.dtype != DType::kBF16)
    raise(env, Code::kDtype, "Expected f32 or bf16 for dtype");
  if (view.shape[1] > 0 && view.shape[0] > kMaxBytes / 4 / view.shape[1])
    raise(env, Code::kShape, "The shape is too large");
  auto& state = device_argument(info).state;
  return allocate(env, state, view, state->device->packed_bytes(view.dtype, view.shape[0], view.shape[1]));
}

// mapTensor(device, path, byteOffset, dtype, shape) -> tensor over the bytes of a file, mapped, read-only.
Napi::Value map_tensor(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  View view;
  view.dtype = dtype_argument(info, 3);
  shape_argument(env, info[4], &view);
  int64_t offset = count_argument(env, info[2], "byteOffset");
  std::string path = info[1].ToString().Utf8Value();
  Status status;
  auto& state = device_argument(info).state;
  int64_t element = dtype_bytes(view.dtype);
  auto storage = state->device->map(path.c_str(), offset, view.size() * element, element, &status);
  raise_if_failed(env, status);
  return tensor_over(env, {state, std::move(storage)}, view, false);
}

// viewTensor(tensor, shape, strides, offset) -> another tensor over the same memory; strides and offset in
// elements, relative to the given tensor's first.
Napi::Value view_tensor(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  TensorHandle& source = tensor_argument(info);
  if (source.view.layout == Layout::kPacked) raise(env, Code::kDtype, "A packed weight has no views");
  View view;
  view.dtype = source.view.dtype;
  shape_argument(env, info[1], &view);
  Napi::Array strides = info[2].As<Napi::Array>();
  int64_t offset = count_argument(env, info[3], "offset");
  if (!info[2].IsArray() || strides.Length() != static_cast<uint32_t>(view.rank)) {
    raise(env, Code::kShape, "Expected one stride per dimension");
  }
  int64_t last = 0;
  for (int i = 0; i < view.rank; i++) {
    view.stride[i] = count_argument(env, strides.Get(static_cast<uint32_t>(i)), "each stride");
    if (view.shape[i] > 1 && view.stride[i] > kMaxBytes / view.shape[i])
      raise(env, Code::kShape, "The stride is too large");
    last += (view.shape[i] - 1) * view.stride[i];
  }
  if (view.stride[view.rank - 1] != 1) raise(env, Code::kShape, "Expected 1 for the last stride");
  int64_t element = dtype_bytes(view.dtype);
  const Storage& storage = *source.memory->storage;
  int64_t start = source.view.as<char>() - static_cast<char*>(storage.data) + offset * element;
  // A view without elements reaches nothing, wherever it starts: columns of no rows lie at an offset too.
  if (view.size() == 0) start = std::min(start, storage.bytes);
  int64_t end = view.size() == 0 ? start : start + (last + 1) * element;
  if (end > storage.bytes) raise(env, Code::kShape, "The view reaches beyond the tensor's memory");
  auto handle = std::make_unique<TensorHandle>();
  handle->memory = source.memory;
  handle->is_view = true;
  handle->view = view;
  handle->view.data = static_cast<char*>(storage.data) + start;
  return wrap_tensor(env, std::move(handle), false);
}

// writeTensor(tensor, typedArray): the array is copied at once and may be changed afterwards.
Napi::Value write_tensor(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  TensorHandle& handle = tensor_argument(info);
  if (handle.view.layout == Layout::kPacked)
    raise(env, Code::kDtype, "A packed weight is only written by packWeight");
  if (!info[1].IsTypedArray()) raise(env, Code::kInvalidArgument, "Expected a typed array for data");
  Napi::TypedArray array = info[1].As<Napi::TypedArray>();
  int64_t bytes = handle.view.size() * dtype_bytes(handle.view.dtype);
  if (static_cast<int64_t>(array.ByteLength()) != bytes) {
    raise(env, Code::kShape,
          "Expected " + std::to_string(bytes) + " bytes for data but received " +
              std::to_string(array.ByteLength()));
  }
  if (handle.memory->storage->read_only)
    raise(env, Code::kInvalidArgument, "A tensor mapped from a file cannot be written");
  Stream& stream = handle.memory->state->device->stream();
  if (stream.capturing())
    raise(env, Code::kInvalidArgument, "Writing is not possible while a graph is captured");
  // Not by way of the array's buffer, which may be a shared one.
  void* elements = nullptr;
  if (napi_get_typedarray_info(env, array, nullptr, nullptr, &elements, nullptr, nullptr) != napi_ok)
    raise(env, Code::kInvalidArgument, "Expected a typed array for data");
  auto* start = static_cast<const uint8_t*>(elements);
  auto data = std::make_shared<std::vector<uint8_t>>(start, start + bytes);
  Device* device = handle.memory->state->device.get();
  stream.enqueue([device, data, view = handle.view, storage = handle.memory->storage](Execution&) {
    const uint8_t* from = data->data();
    Status status;
    for_each_row(view, [&](int64_t offset, int64_t size) {
      if (status.ok()) status = device->copy_from_host(view.as<char>() + offset, from, size);
      from += size;
    });
    return status;
  });
  return env.Undefined();
}

// readTensor(tensor, typedArray) -> promise of the array, filled. JavaScript makes it: memory that is missing
// there is an error, and here the end of the process.
Napi::Value read_tensor(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  TensorHandle& handle = tensor_argument(info);
  if (handle.view.layout == Layout::kPacked) raise(env, Code::kDtype, "A packed weight cannot be read back");
  View view = handle.view;
  const size_t bytes = static_cast<size_t>(view.size() * dtype_bytes(view.dtype));
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().ByteLength() != bytes)
    raise(env, Code::kInvalidArgument, "Expected a typed array of " + std::to_string(bytes) + " bytes");
  Napi::TypedArray array = info[1].As<Napi::TypedArray>();
  char* to = static_cast<char*>(array.ArrayBuffer().Data()) + array.ByteOffset();
  auto reference = std::make_shared<Napi::Reference<Napi::TypedArray>>(Napi::Persistent(array));
  Device* device = handle.memory->state->device.get();
  auto command = [device, view, storage = handle.memory->storage, to](Execution&) {
    char* next = to;
    Status status;
    for_each_row(view, [&](int64_t offset, int64_t size) {
      if (status.ok()) status = device->copy_to_host(next, view.as<char>() + offset, size);
      next += size;
    });
    return status;
  };
  return Completions::request(env, handle.memory->state, std::move(command),
                              [reference](Napi::Env) -> Napi::Value { return reference->Value(); });
}

// disposeTensor(tensor): frees its memory, and ends its views; a view only ends itself.
Napi::Value dispose_tensor(const Napi::CallbackInfo& info) {
  TensorHandle& handle = unwrap<TensorHandle>(info.Env(), info[0], "tensor");
  if (handle.is_view) {
    handle.memory = std::make_shared<TensorMemory>();
  } else {
    handle.memory->storage.reset();
    handle.memory->state.reset();  // a device that was let go of ends with its last tensor
  }
  if (handle.charged) Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -handle.charged);
  handle.charged = 0;
  return info.Env().Undefined();
}

}  // namespace binding
}  // namespace spkv
