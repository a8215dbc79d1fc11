// The CPU as a device.
#pragma once

#include <memory>
#include <string>

#include "core/device.h"

namespace spkv {

struct CpuOptions {
  int threads = 0;           // 0: one per physical core that the process may use
  bool pin = true;           // keep each thread on a core of its own
  std::string instructions;  // "avx512", "avx2", "portable", or empty for the best that this processor has
};

// Null with a status when the instruction set asked for is not there.
std::shared_ptr<Device> open_cpu_device(const CpuOptions& options, Status* status);

}  // namespace spkv
