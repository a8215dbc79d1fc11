#include "core/cache.h"

#include <algorithm>

#include "core/fp8.h"

namespace spkv {
namespace {

using Long = long long;  // what %lld prints

}  // namespace

Status check_geometry(const CacheGeometry& g) {
  if (g.dtype != DType::kF32 && g.dtype != DType::kBF16 && g.dtype != DType::kFP8)
    return fail(Code::kDtype, "Expected f32, bf16 or fp8 for the cache but received %s", dtype_name(g.dtype));
  if (g.head_dim < 2 || g.head_dim > 256 || g.head_dim % 2 != 0)
    return fail(Code::kInvalidArgument, "Expected an even headDim from 2 to 256 but received %lld",
                static_cast<Long>(g.head_dim));
  constexpr int64_t kMost = 1 << 20;
  if (g.layers < 1 || g.layers > kMost || g.kv_heads < 1 || g.kv_heads > kMost || g.window < 1 ||
      g.window > INT32_MAX || g.slack < 0 || g.slack > INT32_MAX || g.capacity_pages < 1)
    return fail(Code::kInvalidArgument,
                "No cache has %lld layers, %lld KV heads, a window of %lld, a slack of %lld and %lld pages",
                static_cast<Long>(g.layers), static_cast<Long>(g.kv_heads), static_cast<Long>(g.window),
                static_cast<Long>(g.slack), static_cast<Long>(g.capacity_pages));
  return Status();
}

Status check_pages(int64_t needed, int64_t free, int64_t capacity) {
  if (needed <= free) return Status();
  return fail(Code::kPoolExhausted, "%lld more pages are needed, but %lld of the cache's %lld are free",
              static_cast<Long>(needed), static_cast<Long>(free), static_cast<Long>(capacity));
}

uint32_t largest_number(DType dtype) {
  if (dtype == DType::kFP8) return fp8::kLargestBits;
  return dtype == DType::kBF16 ? 0x7f7f7fff : 0x7f7fffff;
}

Status not_finite(int64_t layer, int64_t what, DType dtype) {
  const char* const names[3] = {"key", "value", "utility"};
  bool rounded = dtype != DType::kF32 && what != 2;
  return fail(Code::kNonFinite, "Layer %lld has a %s that is not a finite number%s%s",
              static_cast<Long>(layer), names[what], rounded ? " in " : "", rounded ? dtype_name(dtype) : "");
}

Status released_sequence(int32_t slot) {
  return fail(Code::kDisposed, "Sequence %d of the cache has been released or never existed", slot);
}

// The pairs that are in the window again are in the ring, slack or not, as long as no position before
// `oldest` is wanted: that slot has a newer pair. So after a rewind there is less left to take back, until
// new tokens have moved the window on. Taking back all tokens needs nothing from the ring.
Status check_rewind(const CacheGeometry& geometry, int64_t length, int64_t oldest, int64_t tokens) {
  int64_t most = std::min(geometry.slack, length);
  if (oldest > 0 && tokens != length) most = std::min(most, length - geometry.window - oldest);
  if (tokens >= 0 && tokens <= most) return Status();
  return fail(Code::kOutOfRange,
              "Cannot take back %lld tokens of a sequence of %lld: the slack of %lld still holds %lld",
              static_cast<Long>(tokens), static_cast<Long>(length), static_cast<Long>(geometry.slack),
              static_cast<Long>(most));
}

}  // namespace spkv
