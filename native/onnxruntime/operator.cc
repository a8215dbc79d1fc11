#include "onnxruntime/operator.h"

#include <cmath>
#include <cstring>
#include <memory>

namespace spkv {
namespace onnxruntime {
namespace {

enum Input : size_t { kQuery, kKey, kValue, kUtility, kPositions, kSlots, kOffsets, kInputs };
constexpr const char* kInputNames[] = {
    "query", "key", "value", "utility", "position_ids", "sequence_slots", "sequence_offsets"};

// One node of the graph.
struct Kernel {
  AttentionOperator* op = nullptr;
  int64_t layer = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, window = 0;
  float scale = 0;

  const Api& api() const { return op->library->api(); }
  Status read(const OrtKernelInfo* info);
  Status compute(OrtKernelContext* context, AttentionStep* step);

 private:
  Status input(OrtKernelContext* context, Input index, DType dtype, View* view) const;
  Status heads_of(const View& flat, Input index, int64_t count, View* view) const;
  Status check(const AttentionStep& step, bool dense) const;
  void keep(const View& from, const View& stack) const;
};

Status Kernel::read(const OrtKernelInfo* info) {
  struct {
    const char* name;
    int64_t* value;
  } integers[] = {{"layer", &layer},
                  {"layers", &layers},
                  {"num_heads", &heads},
                  {"kv_num_heads", &kv_heads},
                  {"head_dim", &head_dim}};
  for (const auto& integer : integers) {
    SPKV_RETURN_IF_ERROR(op->library->take(
        api().KernelInfoGetAttribute_int64(info, integer.name, integer.value), integer.name));
  }
  SPKV_RETURN_IF_ERROR(op->library->take(api().KernelInfoGetAttribute_float(info, "scale", &scale), "scale"));
  // Dense models have no window.
  if (OrtStatus* missing = api().KernelInfoGetAttribute_int64(info, "window", &window))
    api().ReleaseStatus(missing);
  bool good = layer >= 0 && layer < layers && heads > 0 && kv_heads > 0 && heads % kv_heads == 0 &&
              head_dim > 0 && std::isfinite(scale);
  return good ? Status()
              : fail(Code::kFile, "SelfPrunedAttention has attributes that do not fit: layer %lld of %lld",
                     static_cast<long long>(layer), static_cast<long long>(layers));
}

// An input as a view of its memory; absent where it was left out.
Status Kernel::input(OrtKernelContext* context, Input index, DType dtype, View* view) const {
  const OrtValue* value = nullptr;
  const char* name = kInputNames[index];
  SPKV_RETURN_IF_ERROR(op->library->take(api().KernelContext_GetInput(context, index, &value), name));
  if (!value) return Status();
  OrtTensorTypeAndShapeInfo* info = nullptr;
  SPKV_RETURN_IF_ERROR(op->library->take(api().GetTensorTypeAndShape(value, &info), name));
  size_t rank = 0;
  OrtStatus* status = api().GetDimensionsCount(info, &rank);
  bool fits = !status && rank >= 1 && rank <= View::kMaxRank;
  if (fits) status = api().GetDimensions(info, view->shape, rank);
  api().ReleaseTensorTypeAndShapeInfo(info);
  SPKV_RETURN_IF_ERROR(op->library->take(status, name));
  if (!fits)
    return fail(Code::kShape, "Expected 1 to 4 dimensions for %s of layer %lld", name,
                static_cast<long long>(layer));
  view->rank = static_cast<int>(rank);
  view->dtype = dtype;
  int64_t stride = 1;
  for (int i = view->rank - 1; i >= 0; i--) {
    view->stride[i] = stride;
    stride *= view->shape[i];
  }
  return op->library->take(api().GetTensorMutableData(const_cast<OrtValue*>(value), &view->data), name);
}

// [T, count * D] as [T, count, D].
Status Kernel::heads_of(const View& flat, Input index, int64_t count, View* view) const {
  if (flat.rank != 2 || flat.shape[1] != count * head_dim) {
    return fail(Code::kShape, "Expected [T, %lld] for %s of layer %lld but its rows have %lld",
                static_cast<long long>(count * head_dim), kInputNames[index], static_cast<long long>(layer),
                static_cast<long long>(flat.rank < 2 ? 1 : flat.shape[flat.rank - 1]));
  }
  *view = flat;
  view->rank = 3;
  view->shape[1] = view->stride[0] = count;
  view->shape[2] = view->stride[1] = head_dim;
  view->stride[0] = count * head_dim;
  view->stride[2] = 1;
  return Status();
}

Status Kernel::check(const AttentionStep& step, bool dense) const {
  if (dense == static_cast<bool>(step.utilities))
    return fail(Code::kShape, "Layer %lld has %sutilities, unlike the model", static_cast<long long>(layer),
                dense ? "no " : "");
  const CacheGeometry& g = step.cache->geometry();
  bool fits = g.layers == layers && g.kv_heads == kv_heads && g.head_dim == head_dim;
  if (!fits || (!dense && g.window != window)) {
    return fail(Code::kShape,
                "The cache does not fit the graph: %lld layers, %lld KV heads of %lld, window %lld",
                static_cast<long long>(layers), static_cast<long long>(kv_heads),
                static_cast<long long>(head_dim), static_cast<long long>(window));
  }
  return Status();
}

// Copies the rows of this layer to where all layers' pairs wait for their insertion.
void Kernel::keep(const View& from, const View& stack) const {
  View to = stack.at(layer);
  size_t row = static_cast<size_t>(from.stride[0]) * sizeof(float);
  for (int64_t t = 0; t < from.shape[0]; t++)
    memcpy(to.as<float>() + t * to.stride[0], from.as<float>() + t * from.stride[0], row);
}

Status Kernel::compute(OrtKernelContext* context, AttentionStep* step) {
  if (!step) return fail(Code::kOnnxruntime, "SelfPrunedAttention ran outside of a step");
  SPKV_RETURN_IF_ERROR(step->execution->check());
  View query, key, value;
  AttentionParams params;
  SPKV_RETURN_IF_ERROR(input(context, kQuery, DType::kF32, &query));
  SPKV_RETURN_IF_ERROR(input(context, kKey, DType::kF32, &key));
  SPKV_RETURN_IF_ERROR(input(context, kValue, DType::kF32, &value));
  SPKV_RETURN_IF_ERROR(input(context, kUtility, DType::kF32, &params.utilities));
  SPKV_RETURN_IF_ERROR(input(context, kSlots, DType::kI32, &params.slots));
  SPKV_RETURN_IF_ERROR(input(context, kOffsets, DType::kI32, &params.offsets));
  SPKV_RETURN_IF_ERROR(check(*step, !params.utilities));
  SPKV_RETURN_IF_ERROR(heads_of(query, kQuery, heads, &params.q));
  SPKV_RETURN_IF_ERROR(heads_of(key, kKey, kv_heads, &params.keys));
  SPKV_RETURN_IF_ERROR(heads_of(value, kValue, kv_heads, &params.values));
  int64_t tokens = step->keys.shape[1];
  const View& u = params.utilities;
  if (params.q.shape[0] != tokens || params.keys.shape[0] != tokens || params.values.shape[0] != tokens ||
      (u && (u.rank != 2 || u.shape[0] != tokens || u.shape[1] != kv_heads)) || params.slots.rank != 1 ||
      params.offsets.rank != 1 || params.offsets.shape[0] != params.slots.shape[0] + 1) {
    return fail(Code::kShape, "Expected %lld rows for every input of the attention of layer %lld",
                static_cast<long long>(tokens), static_cast<long long>(layer));
  }
  OrtValue* output = nullptr;
  int64_t shape[2] = {tokens, heads * head_dim};
  SPKV_RETURN_IF_ERROR(
      op->library->take(api().KernelContext_GetOutput(context, 0, shape, 2, &output), "context"));
  params.out = params.q;
  SPKV_RETURN_IF_ERROR(op->library->take(api().GetTensorMutableData(output, &params.out.data), "context"));
  params.cache = step->cache;
  params.layer = layer;
  params.scale = scale;
  keep(params.keys, step->keys);
  keep(params.values, step->values);
  if (u) keep(u, step->utilities);
  return step->operations->attention(params, *step->execution);
}

AttentionOperator* self(const CustomOp* op) {
  return static_cast<AttentionOperator*>(const_cast<CustomOp*>(op));
}

OrtStatus* answer(const Kernel& kernel, const Status& status) {
  return status.ok() ? nullptr : kernel.api().CreateStatus(kFailed, status.message);
}

OrtStatus* create_kernel(const CustomOp* op, const void*, const OrtKernelInfo* info, void** out) {
  auto kernel = std::make_unique<Kernel>();
  kernel->op = self(op);
  Status status = kernel->read(info);
  if (!status.ok()) return answer(*kernel, status);
  *out = kernel.release();
  return nullptr;
}

OrtStatus* compute(void* data, OrtKernelContext* context) {
  Kernel& kernel = *static_cast<Kernel*>(data);
  AttentionStep* step = kernel.op->step;
  Status status = kernel.compute(context, step);
  if (step) step->failure = status;
  return answer(kernel, status);
}

}  // namespace

AttentionOperator::AttentionOperator(const Library* from) : CustomOp(), library(from) {
  version = kApiVersion;
  name = [](const CustomOp*) { return "SelfPrunedAttention"; };
  execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
  input_count = [](const CustomOp*) -> size_t { return kInputs; };
  input_type = [](const CustomOp*, size_t index) -> int {
    return index == kPositions ? kInt64 : index > kPositions ? kInt32 : kFloat;
  };
  input_characteristic = [](const CustomOp*, size_t index) -> int {
    return index == kUtility ? kOptional : kRequired;
  };
  input_memory = [](const CustomOp*, size_t) -> int { return kDefaultMemory; };
  output_count = [](const CustomOp*) -> size_t { return 1; };
  output_type = [](const CustomOp*, size_t) -> int { return kFloat; };
  output_characteristic = [](const CustomOp*, size_t) -> int { return kRequired; };
  variadic_input_least = variadic_input_alike = [](const CustomOp*) -> int { return 1; };
  variadic_output_least = variadic_output_alike = variadic_input_least;
  create_kernel_v2 = &onnxruntime::create_kernel;
  compute_v2 = &onnxruntime::compute;
  destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
}

}  // namespace onnxruntime
}  // namespace spkv
