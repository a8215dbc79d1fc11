// NCCL, opened at run time: the part of its interface that is used here, in our words. The numbers and the
// layouts are those of NVIDIA's reference (docs.nvidia.com/deeplearning/nccl, "NCCL API") and the same in all
// versions from 2.14 on.
#pragma once

#include <cuda_runtime_api.h>

#include <climits>
#include <cstddef>

#include "core/communicator.h"
#include "core/status.h"

namespace spkv {
namespace cuda {

// ncclResult_t. With kInProgress a call goes on in the background, and ncclCommGetAsyncError says when it has
// ended.
enum NcclResult : int {
  kNcclSuccess = 0,
  kNcclInternalError = 3,
  kNcclInvalidArgument = 4,
  kNcclInProgress = 7,
};
constexpr int kNcclFloat32 = 7;  // ncclDataType_t
constexpr int kNcclSum = 0;      // ncclRedOp_t

// The first fields of ncclConfig_t, as version 2.14 had them; newer libraries read the rest as not set.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;  // calls return at once, so that a run can be given up while a rank is missing
  int unset = INT_MIN;
};

struct NcclId {  // ncclUniqueId
  CommunicatorId bytes;
};

// Every function that is opened, with its parameters.
#define SPKV_NCCL(X)                                                                                      \
  X(int, ncclGetVersion, (int* version))                                                                  \
  X(const char*, ncclGetErrorString, (int result))                                                        \
  X(const char*, ncclGetLastError, (void* comm))                                                          \
  X(int, ncclGetUniqueId, (NcclId * id))                                                                  \
  X(int, ncclCommInitRankConfig, (void** comm, int size, NcclId id, int rank, NcclConfig* config))        \
  X(int, ncclCommGetAsyncError, (void* comm, int* result))                                                \
  X(int, ncclAllReduce,                                                                                   \
    (const void* from, void* to, size_t count, int type, int operation, void* comm, cudaStream_t stream)) \
  X(int, ncclCommDestroy, (void* comm))                                                                   \
  X(int, ncclCommAbort, (void* comm))

struct NcclLibrary {
#define SPKV_ENTRY(Result, name, parameters) Result(*name) parameters = nullptr;
  SPKV_NCCL(SPKV_ENTRY)
#undef SPKV_ENTRY

  // kRank with NCCL's own words; kInternal where they are about how it is called.
  Status check(int result, void* comm, const char* doing) const;
};

// kDevice where no NCCL can be opened, or one that is too old; SPKV_NCCL names one to use. Stays open until
// the process ends.
Status open_nccl(NcclLibrary* library);

}  // namespace cuda
}  // namespace spkv
