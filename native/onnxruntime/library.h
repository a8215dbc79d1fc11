// The onnxruntime library that the user's onnxruntime-node has brought, opened while the program runs.
#pragma once

#include <string>

#include "core/status.h"
#include "onnxruntime/api.h"

namespace spkv {
namespace onnxruntime {

// What a message of onnxruntime amounts to among our codes.
Code code_of(const char* message);

class Library {
 public:
  // Opened once per path and kept for the life of the process, as is onnxruntime's environment in it: others
  // may use the same library. Null with a status where it is not there or does not have the interface.
  static const Library* open(const std::string& path, Status* status);

  const Api& api() const { return api_; }
  const OrtEnv* env() const { return env_; }
  const char* version() const { return version_; }

  // What a call has returned, as a status of ours; releases it. `doing` says what was attempted.
  Status take(OrtStatus* status, const char* doing) const;

 private:
  Library(const void* table, const char* version) : api_(table), version_(version) {}

  Api api_;
  const char* version_;
  OrtEnv* env_ = nullptr;
};

}  // namespace onnxruntime
}  // namespace spkv
