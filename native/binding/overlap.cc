#include "binding/overlap.h"

namespace spkv {
namespace binding {
namespace {

// From the first byte behind the dimensions before `from` to behind the last.
int64_t extent(const View& view, int from) {
  if (view.layout == Layout::kPacked) return view.size() * dtype_bytes(view.dtype);
  int64_t last = 0;
  for (int i = from; i < view.rank; i++) last += (view.shape[i] - 1) * view.stride[i];
  return (last + 1) * dtype_bytes(view.dtype);
}

// Dimensions `i` and on of both, b's first element `ahead` bytes behind a's.
bool overlap_from(const View& a, const View& b, int i, int64_t ahead) {
  if (ahead >= extent(a, i) || -ahead >= extent(b, i)) return false;
  if (i >= a.rank || i >= b.rank) return true;
  const int64_t stride = a.stride[i] * dtype_bytes(a.dtype);
  const bool rows = stride == b.stride[i] * dtype_bytes(b.dtype) && stride > 0 &&
                    extent(a, i + 1) <= stride && extent(b, i + 1) <= stride;
  if (!rows) return true;
  // A row of b meets at most the row of a in which it begins, and the one behind that.
  int64_t within = ahead % stride;
  if (within < 0) within += stride;
  return overlap_from(a, b, i + 1, within) || overlap_from(a, b, i + 1, within - stride);
}

}  // namespace

bool same_view(const View& a, const View& b) {
  bool same = a.data == b.data && a.dtype == b.dtype && a.rank == b.rank && a.layout == b.layout;
  for (int i = 0; same && i < a.rank; i++) same = a.shape[i] == b.shape[i] && a.stride[i] == b.stride[i];
  return same;
}

bool overlap(const View& a, const View& b) {
  if (!a || !b || a.size() == 0 || b.size() == 0) return false;
  const bool strided = a.layout == Layout::kStrided && b.layout == Layout::kStrided;
  const int64_t ahead = b.as<char>() - a.as<char>();
  return strided ? overlap_from(a, b, 0, ahead) : ahead < extent(a, 0) && -ahead < extent(b, 0);
}

}  // namespace binding
}  // namespace spkv
