#include "cuda/gated_widened.h"

#include "cuda/convert.h"

namespace spkv {
namespace cuda {

Status Widened::open(std::initializer_list<View*> inputs, std::initializer_list<View*> outputs) {
  int64_t count = extra_;
  for (auto views : {inputs, outputs})
    for (const View* view : views)
      if (view->dtype == DType::kBF16) count += view->size();
  if (count == 0) return Status();
  Status status;
  memory_ = static_cast<float*>(context_.scratch(Scratch::kAttention, count * 4, &status));
  if (!memory_) return status;
  float* next = memory_ + extra_;
  auto widen = [&](View* view) {
    View given = *view;
    if (given.dtype != DType::kBF16) return given;
    view->dtype = DType::kF32;
    view->data = next;
    view->stride[0] = given.shape[1] * given.shape[2];
    view->stride[1] = given.shape[2];
    next += given.size();
    return given;
  };
  for (View* view : inputs) {
    View given = widen(view);
    if (given.data != view->data) SPKV_RETURN_IF_ERROR(convert(*view, given));
  }
  for (View* view : outputs) {
    View given = widen(view);
    if (given.data != view->data) outputs_.push_back({given, *view});
  }
  return Status();
}

Status Widened::close() {
  for (const Output& output : outputs_) SPKV_RETURN_IF_ERROR(convert(output.bf16, output.f32));
  return Status();
}

Status Widened::convert(const View& to, const View& from) {
  auto head = [](const View& view, int64_t h) {
    char* data = static_cast<char*>(view.data) + h * view.stride[1] * dtype_bytes(view.dtype);
    return Rows{data, view.dtype, view.stride[0]};
  };
  for (int64_t h = 0; h < from.shape[1]; h++)
    SPKV_RETURN_IF_ERROR(
        check(convert_rows(head(to, h), head(from, h), from.shape[0], from.shape[2], context_.stream()),
              "converting"));
  return Status();
}

}  // namespace cuda
}  // namespace spkv
