// A sequence as bytes, little-endian, whatever the device and its layout of pages:
//
//   "SPKVSEQ1"  layers  kvHeads  headDim  window  slack  dtype  length  oldest     8 bytes each
//   threshold (f32), 4 bytes of zeros
//   for every layer and KV head:
//     n                        pairs in the kept pages, 8 bytes
//     keys [n][D], values [n][D]
//     keep [r]                 r = length - oldest, the pairs in the ring: 1 where kept, else 0
//     keys [r][D], values [r][D]
//
// Keys and values are in the cache's dtype. `oldest` is the first position that the ring still holds.
#include <algorithm>
#include <cmath>

#include "cpu/cache.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is written as the memory lies");

namespace spkv {
namespace cpu {
namespace {

using Long = long long;  // what %lld prints

constexpr char kMagic[8] = {'S', 'P', 'K', 'V', 'S', 'E', 'Q', '1'};
constexpr int kFields = 8;
constexpr int64_t kHeaderBytes = 8 + 8 * kFields + 8;
const char* const kFieldNames[6] = {"layers", "kvHeads", "headDim", "window", "slack", "dtype"};

void geometry_fields(const CacheGeometry& g, int64_t* fields) {
  const int64_t values[6] = {g.layers, g.kv_heads, g.head_dim,
                             g.window, g.slack,    static_cast<int64_t>(g.dtype)};
  std::copy(values, values + 6, fields);
}

template <typename V>
void put(uint8_t** out, const V& value) {
  memcpy(*out, &value, sizeof value);
  *out += sizeof value;
}

template <typename V>
V get(const uint8_t** in) {
  V value;
  memcpy(&value, *in, sizeof value);
  *in += sizeof value;
  return value;
}

// Where the pairs of a list lie: pair i of the kept ones or of the ring, by slot number in the list's pages.
template <typename T>
struct Rows {
  const PagePool& pool;
  const std::vector<int32_t>& pages;
  int64_t dim;

  Page<T> page(int64_t slot) const {
    return Page<T>(pool.page(pages[static_cast<size_t>(slot / kPageTokens)]), dim);
  }
  // Calls visit(page, slot in it) for pairs 0 to count - 1.
  template <typename Slot, typename Visit>
  void for_each(int64_t count, const Slot& slot, const Visit& visit) const {
    for (int64_t i = 0; i < count; i++) visit(page(slot(i)), slot(i) % kPageTokens);
  }
  template <typename Slot>
  void write_out(int64_t count, const Slot& slot, uint8_t** out) const {
    for_each(count, slot, [&](const Page<T>& page, int64_t at) {
      for (int64_t d = 0; d < dim; d++) put(out, page.key(at, d));
    });
    for_each(count, slot, [&](const Page<T>& page, int64_t at) {
      for (int64_t d = 0; d < dim; d++) put(out, page.value(at, d));
    });
  }
  // False if a number is not finite.
  template <typename Slot>
  bool read_in(int64_t count, const Slot& slot, const uint8_t** in) const {
    bool finite = true;
    auto next = [&](T* to) {
      *to = get<T>(in);
      finite = finite && std::isfinite(decode(*to));
    };
    for_each(count, slot, [&](const Page<T>& page, int64_t at) {
      for (int64_t d = 0; d < dim; d++) next(&page.key(at, d));
    });
    for_each(count, slot, [&](const Page<T>& page, int64_t at) {
      for (int64_t d = 0; d < dim; d++) next(&page.value(at, d));
    });
    return finite;
  }
};

// Checks how long every list claims to be against what there is, without overflow, and sums up the pages.
Status measure(const CacheGeometry& g, const uint8_t* in, int64_t size, int64_t length, int64_t oldest,
               int64_t* pages) {
  int64_t pair = 2 * g.head_dim * dtype_bytes(g.dtype), ring = length - oldest, left = size;
  *pages = g.lists() * g.ring_pages();
  for (int64_t i = 0; i < g.lists(); i++) {
    if (left < 8) return fail(Code::kFile, "The saved sequence ends inside list %lld", static_cast<Long>(i));
    const uint8_t* at = in;
    int64_t kept = get<int64_t>(&at);
    if (kept < 0 || kept > std::max<int64_t>(0, length - g.window))
      return fail(Code::kFile, "List %lld of the saved sequence claims %lld kept pairs of %lld tokens",
                  static_cast<Long>(i), static_cast<Long>(kept), static_cast<Long>(length));
    // kept < 2^31 and pair < 2^11, so this fits.
    int64_t bytes = 8 + kept * pair + ring * (pair + 1);
    if (left < bytes)
      return fail(Code::kFile, "The saved sequence ends inside list %lld", static_cast<Long>(i));
    int64_t recent = 0;
    const uint8_t* keep = in + 8 + kept * pair;
    for (int64_t j = 0; j < ring; j++) {
      if (keep[j] > 1)
        return fail(Code::kFile, "List %lld of the saved sequence is damaged", static_cast<Long>(i));
      if (oldest + j < length - g.window) recent += keep[j];
    }
    // Of the kept pairs, those that the ring still has must be among them, and the rest must be older.
    if (kept < recent || kept - recent > oldest)
      return fail(Code::kFile, "The counts in list %lld of the saved sequence contradict each other",
                  static_cast<Long>(i));
    *pages += (kept + kPageTokens - 1) / kPageTokens;
    in += bytes;
    left -= bytes;
  }
  if (left > 0)
    return fail(Code::kFile, "The saved sequence has %lld bytes too many", static_cast<Long>(left));
  return Status();
}

}  // namespace

template <typename T>
void CpuCache::save_list(const Sequence& sequence, size_t index, uint8_t** out) const {
  const List& list = sequence.lists[index];
  Rows<T> rows{pool_, list.pages, geometry_.head_dim};
  int64_t slots = geometry_.ring_slots(), ring = sequence.length - sequence.oldest;
  auto ring_slot = [&](int64_t i) { return (sequence.oldest + i) % slots; };
  put(out, list.kept);
  rows.write_out(
      list.kept, [&](int64_t i) { return geometry_.ring_pages() * kPageTokens + i; }, out);
  for (int64_t i = 0; i < ring; i++)
    put(out, sequence.keep[index * static_cast<size_t>(slots) + ring_slot(i)]);
  rows.write_out(ring, ring_slot, out);
}

Status CpuCache::save(int32_t slot, std::vector<uint8_t>* bytes) const {
  SPKV_RETURN_IF_ERROR(check(slot));
  const Sequence& sequence = sequences_[static_cast<size_t>(slot)];
  int64_t pair = 2 * geometry_.head_dim * dtype_bytes(geometry_.dtype);
  int64_t size = kHeaderBytes;
  for (const List& list : sequence.lists)
    size += 8 + list.kept * pair + (sequence.length - sequence.oldest) * (pair + 1);
  bytes->resize(static_cast<size_t>(size));
  uint8_t* out = bytes->data();
  put(&out, kMagic);
  int64_t fields[kFields];
  geometry_fields(geometry_, fields);
  fields[6] = sequence.length;
  fields[7] = sequence.oldest;
  put(&out, fields);
  put(&out, sequence.threshold);
  put(&out, uint32_t{0});
  for (size_t i = 0; i < sequence.lists.size(); i++) {
    if (geometry_.dtype == DType::kBF16) {
      save_list<uint16_t>(sequence, i, &out);
    } else {
      save_list<float>(sequence, i, &out);
    }
  }
  return Status();
}

// The pages are there; what the lists say has been checked.
template <typename T>
Status CpuCache::restore_lists(const uint8_t* in, Sequence* sequence) {
  int64_t slots = geometry_.ring_slots(), ring = sequence->length - sequence->oldest;
  auto ring_slot = [&](int64_t i) { return (sequence->oldest + i) % slots; };
  bool finite = true;
  for (size_t index = 0; index < sequence->lists.size(); index++) {
    List& list = sequence->lists[index];
    list.kept = get<int64_t>(&in);
    int64_t pages = geometry_.ring_pages() + kept_pages(list.kept);
    for (int64_t i = 0; i < pages; i++) list.pages.push_back(allocate_zeroed());
    Rows<T> rows{pool_, list.pages, geometry_.head_dim};
    finite &= rows.read_in(
        list.kept, [&](int64_t i) { return geometry_.ring_pages() * kPageTokens + i; }, &in);
    for (int64_t i = 0; i < ring; i++)
      sequence->keep[index * static_cast<size_t>(slots) + ring_slot(i)] = get<uint8_t>(&in);
    finite &= rows.read_in(ring, ring_slot, &in);
  }
  return finite ? Status()
                : fail(Code::kFile, "The saved sequence has a key or value that is not a finite number");
}

Status CpuCache::restore(const uint8_t* bytes, int64_t size, int32_t* slot) {
  if (size < kHeaderBytes || memcmp(bytes, kMagic, sizeof kMagic) != 0)
    return fail(Code::kFile, "Expected a saved sequence (%.8s) but received %lld other bytes", kMagic,
                static_cast<Long>(size));
  const uint8_t* in = bytes + sizeof kMagic;
  int64_t expected[6], fields[kFields];
  geometry_fields(geometry_, expected);
  for (int64_t& field : fields) field = get<int64_t>(&in);
  for (int i = 0; i < 6; i++) {
    if (fields[i] != expected[i])
      return fail(Code::kFile, "The saved sequence has %s %lld, but this cache has %lld", kFieldNames[i],
                  static_cast<Long>(fields[i]), static_cast<Long>(expected[i]));
  }
  Sequence sequence;
  sequence.live = true;
  sequence.length = fields[6];
  sequence.oldest = fields[7];
  sequence.threshold = get<float>(&in);
  uint32_t zeros = get<uint32_t>(&in);
  if (sequence.length < 0 || sequence.length > INT32_MAX || sequence.oldest < 0 ||
      sequence.oldest > std::max<int64_t>(0, sequence.length - geometry_.window) ||
      sequence.length - sequence.oldest > geometry_.ring_slots() || std::isnan(sequence.threshold) ||
      zeros != 0)
    return fail(Code::kFile, "The header of the saved sequence is damaged");
  int64_t pages = 0;
  SPKV_RETURN_IF_ERROR(measure(geometry_, in, size - kHeaderBytes, sequence.length, sequence.oldest, &pages));
  SPKV_RETURN_IF_ERROR(check_available(pages));
  sequence.lists.resize(static_cast<size_t>(geometry_.lists()));
  sequence.keep.resize(static_cast<size_t>(geometry_.lists() * geometry_.ring_slots()));
  Status status = geometry_.dtype == DType::kBF16 ? restore_lists<uint16_t>(in, &sequence)
                                                  : restore_lists<float>(in, &sequence);
  *slot = take_slot();
  sequences_[static_cast<size_t>(*slot)] = std::move(sequence);
  if (!status.ok()) release(*slot);
  return status;
}

}  // namespace cpu
}  // namespace spkv
