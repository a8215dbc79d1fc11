// Sequences come and go. Every method here is a request: what was enqueued before it has run.
#include "cuda/cache.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "cuda/common/page_layout.cuh"
#include "cuda/forecast.h"
#include "cuda/page_content.h"

namespace spkv {
namespace cuda {
namespace {

// A fault names its cache by number: the cache may be gone before the fault is read.
std::mutex caches_mutex;
std::map<uint32_t, CudaCache*> caches;

uint32_t register_cache(CudaCache* cache) {
  static uint32_t last = 0;
  std::lock_guard<std::mutex> lock(caches_mutex);
  caches[++last] = cache;
  return last;
}

Status describe_non_finite(int64_t index, uint32_t dtype) {
  return not_finite(index / 3, index % 3, static_cast<DType>(dtype));
}

}  // namespace

int64_t page_bytes(const CacheGeometry& geometry) {
  return PageLayout::bytes(static_cast<int>(geometry.head_dim), geometry.dtype);
}

std::unique_ptr<Cache> create_cache(const CacheGeometry& geometry, Context& context, Status* status) {
  *status = check_geometry(geometry);
  if (!status->ok()) return nullptr;
  auto cache = std::make_unique<CudaCache>(geometry, context);
  *status = cache->reserve();
  if (!status->ok()) return nullptr;
  return cache;
}

CudaCache::CudaCache(const CacheGeometry& geometry, Context& context)
    : geometry_(geometry), context_(context), number_(register_cache(this)) {
  state_.dtype = geometry.dtype;
  state_.swizzled = geometry.dtype != DType::kF32 && (geometry.head_dim == 64 || geometry.head_dim == 128);
  state_.page_bytes = cuda::page_bytes(geometry);
  state_.layers = static_cast<int32_t>(geometry.layers);
  state_.kv_heads = static_cast<int32_t>(geometry.kv_heads);
  state_.head_dim = static_cast<int32_t>(geometry.head_dim);
  state_.window = static_cast<int32_t>(geometry.window);
  // No position is larger, so a longer ring has the same slots.
  state_.ring_slots = static_cast<int32_t>(std::min<int64_t>(geometry.ring_slots(), INT32_MAX));
  state_.ring_pages = static_cast<int32_t>(geometry.ring_pages());
  state_.keep_words = static_cast<int32_t>((int64_t{state_.ring_slots} + 31) / 32);
}

CudaCache::~CudaCache() {
  std::lock_guard<std::mutex> lock(caches_mutex);
  caches.erase(number_);
}

Status CudaCache::reserve() {
  int64_t pages = geometry_.capacity_pages, bytes = 0;
  if (pages > INT32_MAX || __builtin_mul_overflow(pages, state_.page_bytes, &bytes) || bytes > INT64_MAX / 2)
    return fail(Code::kOutOfMemory, "A cache of %lld pages of %lld bytes does not fit the address space",
                static_cast<long long>(pages), static_cast<long long>(state_.page_bytes));
  state_.capacity_pages = static_cast<int32_t>(pages);
  SPKV_RETURN_IF_ERROR(pool_.allocate(bytes, "the pages of the cache"));
  SPKV_RETURN_IF_ERROR(books_.allocate(32 + pages * 8, "the books of the cache"));
  state_.pool = pool_.data();
  state_.shortage = reinterpret_cast<PoolShortage*>(books_.data());
  state_.free_count = reinterpret_cast<int32_t*>(state_.shortage + 1);
  state_.least_free = state_.free_count + 1;
  state_.free_pages = state_.least_free + 1;
  state_.references = state_.free_pages + pages;
  return Status();
}

const InsertFaults& CudaCache::insert_faults() {
  if (faults_.fault) return faults_;
  faults_.cache = number_;
  faults_.non_finite = context_.fault_site("insert: not finite", describe_non_finite);
  faults_.exhausted = context_.fault_site("insert: pool exhausted", [](int64_t, uint32_t number) {
    std::lock_guard<std::mutex> lock(caches_mutex);
    auto found = caches.find(number);
    if (found != caches.end()) return found->second->describe_shortage();
    return fail(Code::kPoolExhausted, "A cache that has been disposed had too few pages");
  });
  faults_.fault = context_.fault();
  return faults_;
}

Status CudaCache::describe_shortage() const {
  PoolShortage shortage;
  SPKV_RETURN_IF_ERROR(read(&shortage, state_.shortage, sizeof shortage));
  return check_pages(shortage.needed, shortage.free, geometry_.capacity_pages);
}

Status CudaCache::read(void* host, const void* device, int64_t bytes) const {
  cudaError_t error =
      cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, context_.stream());
  if (error == cudaSuccess) error = cudaStreamSynchronize(context_.stream());
  return cuda::check(error, "reading the cache");
}

// values[l, g, :] = device[l, slot, g, :], for arrays with `each` numbers per list.
Status CudaCache::read_lists(std::vector<int32_t>* values, const int32_t* device, int32_t slot,
                             int64_t each) const {
  size_t width = static_cast<size_t>(geometry_.kv_heads * each) * sizeof(int32_t);
  values->resize(static_cast<size_t>(geometry_.lists() * each));
  cudaError_t error =
      cudaMemcpy2DAsync(values->data(), width, device + slot * geometry_.kv_heads * each,
                        width * static_cast<size_t>(state_.sequences), width,
                        static_cast<size_t>(geometry_.layers), cudaMemcpyDeviceToHost, context_.stream());
  if (error == cudaSuccess) error = cudaStreamSynchronize(context_.stream());
  return cuda::check(error, "reading the cache");
}

Status CudaCache::read_ring(int32_t slot, int32_t* length, int32_t* oldest) const {
  SPKV_RETURN_IF_ERROR(read(length, state_.length + slot, sizeof(int32_t)));
  return read(oldest, state_.oldest + slot, sizeof(int32_t));
}

PoolStats CudaCache::pool_stats() const {
  PoolStats stats;
  stats.page_bytes = state_.page_bytes;
  stats.capacity_pages = geometry_.capacity_pages;
  stats.sequences = static_cast<int64_t>(sequences_.size() - free_slots_.size());
  int32_t counts[2];  // free_count, least_free
  if (state_.sequences > 0 && read(counts, state_.free_count, sizeof counts).ok()) {
    stats.used_pages = stats.capacity_pages - counts[0];
    stats.peak_pages = stats.capacity_pages - counts[1];
  }
  return stats;
}

Status CudaCache::check(int32_t slot) const {
  if (slot < 0 || static_cast<size_t>(slot) >= sequences_.size() || !sequence(slot).live)
    return released_sequence(slot);
  return Status();
}

Status CudaCache::check_available(int64_t needed) const {
  int32_t free = state_.capacity_pages;
  if (state_.sequences > 0) SPKV_RETURN_IF_ERROR(read(&free, state_.free_count, sizeof free));
  return check_pages(needed, free, geometry_.capacity_pages);
}

Status CudaCache::take_slot(int32_t* slot) {
  if (!free_slots_.empty()) {
    *slot = free_slots_.back();
    free_slots_.pop_back();
    return Status();
  }
  int64_t count = static_cast<int64_t>(sequences_.size());
  if (count == state_.sequences)
    SPKV_RETURN_IF_ERROR(grow(std::max<int64_t>(4, 2 * count), state_.table_pages));
  sequences_.emplace_back();
  *slot = static_cast<int32_t>(count);
  return Status();
}

// The pages are there, and the tables have room.
Status CudaCache::begin_sequence(int32_t slot, float threshold, int64_t length, int64_t oldest, int64_t pages,
                                 const ListStart* starts) {
  NewSequence fresh;
  fresh.slot = slot;
  fresh.length = static_cast<int32_t>(length);
  fresh.oldest = static_cast<int32_t>(oldest);
  fresh.threshold = threshold;
  fresh.pages = static_cast<int32_t>(pages);
  fresh.starts = starts;
  cudaError_t error = create_sequence(state_, fresh, context_.stream());
  if (error != cudaSuccess) {
    free_slots_.push_back(slot);
    return cuda::check(error, "creating a sequence");
  }
  Sequence& made = sequence(slot);
  made.live = true;
  made.threshold = threshold;
  made.length = length;
  made.family = std::make_shared<char>();
  content_++;
  return Status();
}

Status CudaCache::create(float threshold, int32_t* slot) {
  if (std::isnan(threshold))
    return fail(Code::kInvalidArgument, "Expected a number for threshold but received NaN");
  int64_t pages = geometry_.lists() * geometry_.ring_pages();
  SPKV_RETURN_IF_ERROR(check_available(pages));
  SPKV_RETURN_IF_ERROR(take_slot(slot));
  return begin_sequence(*slot, threshold, 0, 0, pages, nullptr);
}

Status CudaCache::release(int32_t slot) {
  SPKV_RETURN_IF_ERROR(check(slot));
  SPKV_RETURN_IF_ERROR(
      cuda::check(release_sequence(state_, slot, context_.stream()), "releasing a sequence"));
  sequence(slot) = Sequence();
  free_slots_.push_back(slot);
  content_++;
  return Status();
}

Status CudaCache::fork(int32_t slot, int32_t* copy) {
  SPKV_RETURN_IF_ERROR(check(slot));
  SPKV_RETURN_IF_ERROR(take_slot(copy));
  cudaError_t error = fork_sequence(state_, slot, *copy, context_.stream());
  if (error != cudaSuccess) {
    free_slots_.push_back(*copy);
    return cuda::check(error, "forking a sequence");
  }
  sequence(*copy) = sequence(slot);
  content_++;
  return Status();
}

Status CudaCache::rewind(int32_t slot, int64_t tokens) {
  SPKV_RETURN_IF_ERROR(check(slot));
  int32_t length, oldest;
  SPKV_RETURN_IF_ERROR(read_ring(slot, &length, &oldest));
  SPKV_RETURN_IF_ERROR(check_rewind(geometry_, length, oldest, tokens));
  SPKV_RETURN_IF_ERROR(cuda::check(rewind_sequence(state_, slot, static_cast<int>(tokens), context_.stream()),
                                   "rewinding a sequence"));
  sequence(slot).length = length - tokens;
  content_++;
  return Status();
}

Status CudaCache::sequence_stats(int32_t slot, SequenceStats* stats) const {
  SPKV_RETURN_IF_ERROR(check(slot));
  *stats = SequenceStats();
  std::vector<int32_t> kept;
  int32_t length, oldest;
  SPKV_RETURN_IF_ERROR(read_ring(slot, &length, &oldest));
  SPKV_RETURN_IF_ERROR(read_lists(&kept, state_.kept, slot, 1));
  stats->length = length;
  stats->threshold = sequence(slot).threshold;
  stats->kept.assign(kept.begin(), kept.end());
  for (int64_t pairs : kept) stats->pages += table_pages_for(pairs);
  if (sequence(slot).family.use_count() == 1) return Status();
  Status status;
  auto* count = static_cast<int32_t*>(context_.scratch(Scratch::kInsert, sizeof(int32_t), &status));
  if (!count) return status;
  int32_t shared = 0;
  cudaError_t error = cudaMemsetAsync(count, 0, sizeof shared, context_.stream());
  if (error == cudaSuccess) error = count_shared_pages(state_, slot, count, context_.stream());
  SPKV_RETURN_IF_ERROR(cuda::check(error, "counting shared pages"));
  SPKV_RETURN_IF_ERROR(read(&shared, count, sizeof shared));
  stats->shared_pages = shared;
  return Status();
}

Status CudaCache::forecast(const std::vector<int32_t>& slots, int64_t tokens,
                           std::vector<int32_t>* pages) const {
  for (int32_t slot : slots) SPKV_RETURN_IF_ERROR(check(slot));
  pages->resize(slots.size() * static_cast<size_t>(tokens));
  if (pages->empty()) return Status();
  const int64_t batch = static_cast<int64_t>(slots.size()), count = batch * tokens;
  Status status;
  auto* device =
      static_cast<int32_t*>(context_.scratch(Scratch::kInsert, (count + batch) * int64_t{4}, &status));
  if (!device) return status;
  SPKV_RETURN_IF_ERROR(cuda::check(cudaMemcpyAsync(device + count, slots.data(), slots.size() * 4,
                                                   cudaMemcpyHostToDevice, context_.stream()),
                                   "writing slots"));
  SPKV_RETURN_IF_ERROR(cuda::check(forecast_pages(state_, device, device + count, static_cast<int>(batch),
                                                  static_cast<int>(tokens), context_.stream()),
                                   "forecasting pages"));
  return read(pages->data(), device, count * 4);
}

Status CudaCache::poison() {
  if (state_.sequences == 0) SPKV_RETURN_IF_ERROR(grow(4, 0));
  cudaError_t error = poison_free_pages(state_, context_.stream());
  for (size_t slot = 0; slot < sequences_.size() && error == cudaSuccess; slot++)
    if (sequences_[slot].live) error = poison_dead_slots(state_, static_cast<int>(slot), context_.stream());
  return cuda::check(error, "poisoning the cache");
}

}  // namespace cuda
}  // namespace spkv
