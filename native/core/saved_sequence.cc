#include "core/saved_sequence.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/fp8.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is written as the memory lies");

namespace spkv {
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

int64_t pair_bytes(const CacheGeometry& g) { return 2 * g.row_bytes(); }

// The parts of a list that begins at `at`, behind its count.
template <typename Byte>
SavedList<Byte> parts_at(Byte* at, int64_t kept, int64_t ring, int64_t pair) {
  return {kept, at, at + kept * pair, at + kept * pair + ring};
}

// Checks how long every list claims to be against what there is, without overflow, and sums up the pages.
Status read_lists(const CacheGeometry& g, const uint8_t* in, int64_t size, SavedSequence* saved) {
  int64_t pair = pair_bytes(g), ring = saved->ring(), length = saved->length, left = size;
  saved->pages = g.lists() * g.ring_pages();
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
    SavedList<const uint8_t> list = parts_at(at, kept, ring, pair);
    int64_t recent = 0;
    for (int64_t j = 0; j < ring; j++) {
      if (list.keep[j] > 1)
        return fail(Code::kFile, "List %lld of the saved sequence is damaged", static_cast<Long>(i));
      if (saved->oldest + j < length - g.window) recent += list.keep[j];
    }
    // Of the kept pairs, those that the ring still has must be among them, and the rest must be older.
    if (kept < recent || kept - recent > saved->oldest)
      return fail(Code::kFile, "The counts in list %lld of the saved sequence contradict each other",
                  static_cast<Long>(i));
    saved->lists.push_back(list);
    saved->pages += (kept + kPageTokens - 1) / kPageTokens;
    in += bytes;
    left -= bytes;
  }
  if (left > 0)
    return fail(Code::kFile, "The saved sequence has %lld bytes too many", static_cast<Long>(left));
  return Status();
}

// T has the bits of a number; those of `exponent` are all set where it is not finite.
template <typename T>
bool all_finite(const uint8_t* numbers, int64_t count, T exponent) {
  bool finite = true;
  for (int64_t i = 0; i < count; i++) finite = finite && (get<T>(&numbers) & exponent) != exponent;
  return finite;
}

bool all_finite_fp8(const uint8_t* rows, int64_t count, int64_t head_dim) {
  bool finite = true;
  for (; count > 0; count--, rows += head_dim + 1) {
    for (int64_t d = 0; d < head_dim; d++) finite = finite && (rows[d] & 0x7f) != 0x7f;
    finite = finite && rows[head_dim] >= fp8::kLeastScale && rows[head_dim] <= fp8::kMostScale;
  }
  return finite;
}

}  // namespace

Status read_saved(const CacheGeometry& geometry, const uint8_t* bytes, int64_t size, SavedSequence* saved) {
  if (size < kHeaderBytes || memcmp(bytes, kMagic, sizeof kMagic) != 0)
    return fail(Code::kFile, "Expected a saved sequence (%.8s) but received %lld other bytes", kMagic,
                static_cast<Long>(size));
  const uint8_t* in = bytes + sizeof kMagic;
  int64_t expected[6], fields[kFields];
  geometry_fields(geometry, expected);
  for (int64_t& field : fields) field = get<int64_t>(&in);
  for (int i = 0; i < 6; i++) {
    if (fields[i] != expected[i])
      return fail(Code::kFile, "The saved sequence has %s %lld, but this cache has %lld", kFieldNames[i],
                  static_cast<Long>(fields[i]), static_cast<Long>(expected[i]));
  }
  saved->length = fields[6];
  saved->oldest = fields[7];
  saved->threshold = get<float>(&in);
  uint32_t zeros = get<uint32_t>(&in);
  if (saved->length < 0 || saved->length > INT32_MAX || saved->oldest < 0 ||
      saved->oldest > std::max<int64_t>(0, saved->length - geometry.window) ||
      saved->ring() > geometry.ring_slots() || std::isnan(saved->threshold) || zeros != 0)
    return fail(Code::kFile, "The header of the saved sequence is damaged");
  return read_lists(geometry, in, size - kHeaderBytes, saved);
}

Status check_saved_numbers(const CacheGeometry& geometry, const SavedSequence& saved) {
  auto finite = [&](const uint8_t* rows, int64_t pairs) {
    int64_t count = 2 * pairs * geometry.head_dim;
    if (geometry.dtype == DType::kFP8) return all_finite_fp8(rows, 2 * pairs, geometry.head_dim);
    return geometry.dtype == DType::kBF16 ? all_finite<uint16_t>(rows, count, 0x7f80)
                                          : all_finite<uint32_t>(rows, count, 0x7f800000);
  };
  for (const SavedList<const uint8_t>& list : saved.lists) {
    if (!finite(list.kept_rows, list.kept) || !finite(list.ring_rows, saved.ring()))
      return fail(Code::kFile, "The saved sequence has a key or value that is not a finite number");
  }
  return Status();
}

std::vector<SavedList<uint8_t>> begin_saved(const CacheGeometry& geometry, int64_t length, int64_t oldest,
                                            float threshold, const std::vector<int64_t>& kept,
                                            std::vector<uint8_t>* bytes) {
  int64_t pair = pair_bytes(geometry), ring = length - oldest, size = kHeaderBytes;
  for (int64_t pairs : kept) size += 8 + pairs * pair + ring * (pair + 1);
  bytes->resize(static_cast<size_t>(size));
  uint8_t* out = bytes->data();
  memcpy(out, kMagic, sizeof kMagic);
  out += sizeof kMagic;
  int64_t fields[kFields] = {0, 0, 0, 0, 0, 0, length, oldest};
  geometry_fields(geometry, fields);
  for (int64_t field : fields) put(&out, field);
  put(&out, threshold);
  put(&out, uint32_t{0});
  std::vector<SavedList<uint8_t>> lists;
  for (int64_t pairs : kept) {
    put(&out, pairs);
    lists.push_back(parts_at(out, pairs, ring, pair));
    out += pairs * pair + ring * (pair + 1);
  }
  return lists;
}

}  // namespace spkv
