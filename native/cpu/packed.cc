#include "cpu/packed.h"

namespace spkv {
namespace cpu {

int64_t packed_bytes(DType dtype, int64_t n, int64_t k) {
  int64_t panels = (n + kPanelColumns - 1) / kPanelColumns;
  return panels * packed_units(dtype, k) * kPanelColumns * 4;
}

}  // namespace cpu
}  // namespace spkv
