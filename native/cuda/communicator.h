// Sums over GPUs, of one host or several, by NCCL.
#pragma once

#include <memory>

#include "core/communicator.h"
#include "cuda/stream_memory.h"

namespace spkv {
namespace cuda {

Status communicator_id(CommunicatorId* id);

// For the device of `memory`. Null with a status: kDevice without NCCL.
std::unique_ptr<Communicator> create_communicator(const CommunicatorOptions& options,
                                                  std::shared_ptr<StreamMemory> memory, Status* status);

}  // namespace cuda
}  // namespace spkv
