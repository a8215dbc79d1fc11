// The outcome of an operation. Plain data: kernels that are compiled once per instruction set may return it
// without instantiating standard library templates.
#pragma once

namespace spkv {

// Mirrors ErrorCode in lib/errors.ts; binding/addon.cc holds the names.
enum class Code {
  kOk = 0,
  kInvalidArgument,
  kShape,
  kDtype,
  kDevice,
  kDisposed,
  kOutOfMemory,
  kPoolExhausted,
  kNonFinite,
  kOutOfRange,
  kAborted,
  kFile,
  kUnsupported,
  kRank,
  kNative,
  kOnnxruntime,
  kInternal,
};

struct Status {
  Code code = Code::kOk;
  char message[240] = {0};

  bool ok() const { return code == Code::kOk; }
};

// Defined once, not inline: see cpu/isa.h.
__attribute__((format(printf, 2, 3))) Status fail(Code code, const char* format, ...);

#define SPKV_RETURN_IF_ERROR(expression)                    \
  do {                                                      \
    ::spkv::Status status_ = (expression);                  \
    if (__builtin_expect(!status_.ok(), 0)) return status_; \
  } while (0)

}  // namespace spkv
