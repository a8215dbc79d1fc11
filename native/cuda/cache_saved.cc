// Saving and restoring; core/saved_sequence.h describes the bytes. Lists pass one by one through a buffer on
// the device, in order of the stream.
#include <algorithm>

#include "cuda/cache.h"
#include "cuda/page_content.h"

namespace spkv {
namespace cuda {
namespace {

// The parts of a list's rows in the buffer.
struct Parts {
  uint8_t* kept;
  uint8_t* ring;
  size_t kept_bytes, ring_bytes;
};

Parts parts_of(const CacheGeometry& g, uint8_t* buffer, int64_t kept, int64_t ring) {
  int64_t pair = 2 * g.row_bytes();
  return {buffer, buffer + kept * pair, static_cast<size_t>(kept * pair), static_cast<size_t>(ring * pair)};
}

Status allocate_buffer(const CacheGeometry& g, int64_t most_pairs, DeviceMemory* buffer) {
  return buffer->allocate(std::max<int64_t>(1, most_pairs) * 2 * g.row_bytes(), "a list of the sequence");
}

}  // namespace

Status CudaCache::save_rows(int32_t slot, const std::vector<int32_t>& kept, int32_t length, int32_t oldest,
                            const std::vector<SavedList<uint8_t>>& lists) const {
  int32_t ring = length - oldest;
  DeviceMemory buffer;
  SPKV_RETURN_IF_ERROR(
      allocate_buffer(geometry_, *std::max_element(kept.begin(), kept.end()) + int64_t{ring}, &buffer));
  cudaStream_t stream = context_.stream();
  cudaError_t error = cudaSuccess;
  for (size_t i = 0; i < lists.size() && error == cudaSuccess; i++) {
    int head = static_cast<int>(i) % state_.kv_heads, layer = static_cast<int>(i) / state_.kv_heads;
    error = read_rows(state_, {state_.list(layer, slot, head), kept[i], oldest, ring, buffer.data()}, stream);
    Parts parts = parts_of(geometry_, buffer.data(), kept[i], ring);
    if (error == cudaSuccess)
      error =
          cudaMemcpyAsync(lists[i].kept_rows, parts.kept, parts.kept_bytes, cudaMemcpyDeviceToHost, stream);
    if (error == cudaSuccess)
      error =
          cudaMemcpyAsync(lists[i].ring_rows, parts.ring, parts.ring_bytes, cudaMemcpyDeviceToHost, stream);
  }
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  return cuda::check(error, "saving a sequence");
}

Status CudaCache::save(int32_t slot, std::vector<uint8_t>* bytes) const {
  SPKV_RETURN_IF_ERROR(check(slot));
  std::vector<int32_t> kept, keep;
  int32_t length, oldest;
  SPKV_RETURN_IF_ERROR(read_ring(slot, &length, &oldest));
  SPKV_RETURN_IF_ERROR(read_lists(&kept, state_.kept, slot, 1));
  SPKV_RETURN_IF_ERROR(
      read_lists(&keep, reinterpret_cast<const int32_t*>(state_.keep), slot, state_.keep_words));
  std::vector<SavedList<uint8_t>> lists =
      begin_saved(geometry_, length, oldest, sequence(slot).threshold, {kept.begin(), kept.end()}, bytes);
  for (size_t i = 0; i < lists.size(); i++) {
    const int32_t* words = keep.data() + i * static_cast<size_t>(state_.keep_words);
    for (int32_t p = oldest; p < length; p++) {
      int32_t at = p % state_.ring_slots;
      lists[i].keep[p - oldest] = static_cast<uint32_t>(words[at / 32]) >> (at % 32) & 1;
    }
  }
  return save_rows(slot, kept, length, oldest, lists);
}

// The rows and keep bits of a sequence that has its pages.
Status CudaCache::restore_lists(int32_t slot, const SavedSequence& saved) {
  int32_t oldest = static_cast<int32_t>(saved.oldest), ring = static_cast<int32_t>(saved.ring());
  DeviceMemory buffer;
  SPKV_RETURN_IF_ERROR(allocate_buffer(geometry_, sequence(slot).kept + ring, &buffer));
  std::vector<uint32_t> keep(saved.lists.size() * static_cast<size_t>(state_.keep_words));
  cudaStream_t stream = context_.stream();
  cudaError_t error = cudaSuccess;
  for (size_t i = 0; i < saved.lists.size() && error == cudaSuccess; i++) {
    const SavedList<const uint8_t>& list = saved.lists[i];
    uint32_t* words = keep.data() + i * static_cast<size_t>(state_.keep_words);
    for (int32_t j = 0; j < ring; j++) {
      int64_t at = (int64_t{oldest} + j) % state_.ring_slots;
      words[at / 32] |= uint32_t{list.keep[j]} << (at % 32);
    }
    int head = static_cast<int>(i) % state_.kv_heads, layer = static_cast<int>(i) / state_.kv_heads;
    Parts parts = parts_of(geometry_, buffer.data(), list.kept, ring);
    error = cudaMemcpyAsync(parts.kept, list.kept_rows, parts.kept_bytes, cudaMemcpyHostToDevice, stream);
    if (error == cudaSuccess)
      error = cudaMemcpyAsync(parts.ring, list.ring_rows, parts.ring_bytes, cudaMemcpyHostToDevice, stream);
    if (error == cudaSuccess)
      error = write_rows(
          state_,
          {state_.list(layer, slot, head), static_cast<int32_t>(list.kept), oldest, ring, buffer.data()},
          stream);
  }
  size_t width = static_cast<size_t>(state_.kv_heads) * state_.keep_words * sizeof(uint32_t);
  uint32_t* first = state_.keep + state_.list(0, slot, 0) * state_.keep_words;
  if (error == cudaSuccess)
    error = cudaMemcpy2DAsync(first, width * static_cast<size_t>(state_.sequences), keep.data(), width, width,
                              static_cast<size_t>(state_.layers), cudaMemcpyHostToDevice, stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  return cuda::check(error, "restoring a sequence");
}

Status CudaCache::restore(const uint8_t* bytes, int64_t size, int32_t* slot) {
  SavedSequence saved;
  SPKV_RETURN_IF_ERROR(read_saved(geometry_, bytes, size, &saved));
  SPKV_RETURN_IF_ERROR(check_available(saved.pages));
  SPKV_RETURN_IF_ERROR(check_saved_numbers(geometry_, saved));
  std::vector<ListStart> starts;
  int64_t most = 0, pages = 0;
  for (const SavedList<const uint8_t>& list : saved.lists) {
    starts.push_back({static_cast<int32_t>(list.kept), static_cast<int32_t>(pages)});
    pages += table_pages_for(list.kept);
    most = std::max(most, list.kept);
  }
  if (table_pages_for(most) > state_.table_pages)
    SPKV_RETURN_IF_ERROR(grow(std::max(4, state_.sequences), table_pages_for(most)));
  DeviceMemory device_starts;
  int64_t starts_bytes = static_cast<int64_t>(starts.size() * sizeof(ListStart));
  SPKV_RETURN_IF_ERROR(device_starts.allocate(starts_bytes, "the lists of the sequence"));
  cudaError_t error = cudaMemcpyAsync(device_starts.data(), starts.data(), static_cast<size_t>(starts_bytes),
                                      cudaMemcpyHostToDevice, context_.stream());
  SPKV_RETURN_IF_ERROR(cuda::check(error, "restoring a sequence"));
  SPKV_RETURN_IF_ERROR(take_slot(slot));
  SPKV_RETURN_IF_ERROR(begin_sequence(*slot, saved.threshold, saved.length, saved.oldest, pages,
                                      reinterpret_cast<const ListStart*>(device_starts.data())));
  sequence(*slot).kept = most;
  Status status = restore_lists(*slot, saved);
  if (!status.ok()) release(*slot);
  return status;
}

}  // namespace cuda
}  // namespace spkv
