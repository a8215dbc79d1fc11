#include "cuda/common/tensor_map.h"

#if !defined(SPKV_EMULATED_CUDA)
#include <cuda_runtime_api.h>
#include <cudaTypedefs.h>
#endif

namespace spkv {
namespace cuda {

bool has_tensor_map(const View& tensor) {
  constexpr int kElements = 8;  // in 16 bytes
  return tensor.dtype == DType::kBF16 && tensor.shape[2] % 64 == 0 &&
         reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.stride[0] % kElements == 0 &&
         tensor.stride[1] % kElements == 0;
}

#if defined(SPKV_EMULATED_CUDA)

Status make_tensor_map(TensorMap* map, const View& tensor, int rows) {
  *map = {tensor.data,
          tensor.shape[0],
          tensor.stride[0],
          tensor.stride[1],
          rows,
          static_cast<int>(tensor.shape[2] / 64)};
  return Status();
}

#else

Status make_tensor_map(TensorMap* map, const View& tensor, int rows) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  if (error != cudaSuccess || found != cudaDriverEntryPointSuccess)
    return fail(Code::kInternal, "The CUDA driver has no cuTensorMapEncodeTiled");
  auto encode = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  auto size = [](int64_t n) { return static_cast<cuuint64_t>(n); };
  cuuint64_t panels = size(tensor.shape[2] / 64);
  const cuuint64_t shape[4] = {64, size(tensor.shape[0]), panels, size(tensor.shape[1])};
  const cuuint64_t stride[3] = {size(tensor.stride[0] * 2), 128, size(tensor.stride[1] * 2)};
  const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(rows), static_cast<cuuint32_t>(panels), 1};
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  CUresult result = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, tensor.data, shape, stride, box, steps,
                           CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    return fail(Code::kInternal, "cuTensorMapEncodeTiled failed with code %d", static_cast<int>(result));
  return Status();
}

#endif

}  // namespace cuda
}  // namespace spkv
