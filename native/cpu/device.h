// The CPU as a device.
#pragma once

#include <memory>
#include <string>

#include "core/device.h"

namespace spkv {

// Whether each thread is kept on a core of its own. By default where every core has a thread: fewer are left
// to the system, since other devices and other processes would keep theirs on the very same cores.
enum class Pin { kDefault, kNo, kYes };

struct CpuOptions {
  int threads = 0;  // 0: one per physical core that the process may use
  Pin pin = Pin::kDefault;
  std::string instructions;  // "avx512", "avx2", "portable", or empty for the best that this processor has
};

// Null with a status when the instruction set asked for is not there.
std::shared_ptr<Device> open_cpu_device(const CpuOptions& options, Status* status);

}  // namespace spkv
