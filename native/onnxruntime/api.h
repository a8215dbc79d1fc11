// The part of onnxruntime's C interface that spkv uses.
//
// A program gets a table of functions from the library, for a version of the interface that it names. Tables
// only grow at their end: since the version that brought it, a function has stood at the same position, and
// later libraries give tables for all earlier versions. So positions and types are all one needs to know;
// they are written down here, from onnxruntime's documentation. All functions that can fail return a status,
// which is null where they have not.
#pragma once

#include <cstddef>
#include <cstdint>

// The types of the interface are opaque; their names are onnxruntime's.
struct OrtAllocator;
struct OrtCustomOpDomain;
struct OrtEnv;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

namespace spkv {
namespace onnxruntime {

// The version that we ask for: that of onnxruntime 1.16, in which operators learned to return a status.
constexpr uint32_t kApiVersion = 16;

// position, since version, name, result, arguments
#define SPKV_ONNXRUNTIME_FUNCTIONS(X)                                                                       \
  X(0, 1, CreateStatus, OrtStatus*, (int code, const char* message))                                        \
  X(1, 1, GetErrorCode, int, (const OrtStatus* status))                                                     \
  X(2, 1, GetErrorMessage, const char*, (const OrtStatus* status))                                          \
  X(3, 1, CreateEnv, OrtStatus*, (int log_level, const char* log_id, OrtEnv** out))                         \
  X(7, 1, CreateSession, OrtStatus*,                                                                        \
    (const OrtEnv* env, const char* path, const OrtSessionOptions* options, OrtSession** out))              \
  X(9, 1, Run, OrtStatus*,                                                                                  \
    (OrtSession * session, const OrtRunOptions* options, const char* const* input_names,                    \
     const OrtValue* const* inputs, size_t input_count, const char* const* output_names,                    \
     size_t output_count, OrtValue** outputs))                                                              \
  X(10, 1, CreateSessionOptions, OrtStatus*, (OrtSessionOptions * *out))                                    \
  X(22, 1, SetSessionLogSeverityLevel, OrtStatus*, (OrtSessionOptions * options, int level))                \
  X(24, 1, SetIntraOpNumThreads, OrtStatus*, (OrtSessionOptions * options, int threads))                    \
  X(26, 1, CreateCustomOpDomain, OrtStatus*, (const char* domain, OrtCustomOpDomain** out))                 \
  X(27, 1, CustomOpDomain_Add, OrtStatus*, (OrtCustomOpDomain * domain, const void* custom_op))             \
  X(28, 1, AddCustomOpDomain, OrtStatus*, (OrtSessionOptions * options, OrtCustomOpDomain * domain))        \
  X(30, 1, SessionGetInputCount, OrtStatus*, (const OrtSession* session, size_t* out))                      \
  X(31, 1, SessionGetOutputCount, OrtStatus*, (const OrtSession* session, size_t* out))                     \
  X(36, 1, SessionGetInputName, OrtStatus*,                                                                 \
    (const OrtSession* session, size_t index, OrtAllocator* allocator, char** out))                         \
  X(37, 1, SessionGetOutputName, OrtStatus*,                                                                \
    (const OrtSession* session, size_t index, OrtAllocator* allocator, char** out))                         \
  X(49, 1, CreateTensorWithDataAsOrtValue, OrtStatus*,                                                      \
    (const OrtMemoryInfo* memory, void* data, size_t bytes, const int64_t* shape, size_t rank, int element, \
     OrtValue** out))                                                                                       \
  X(51, 1, GetTensorMutableData, OrtStatus*, (OrtValue * value, void** out))                                \
  X(61, 1, GetDimensionsCount, OrtStatus*, (const OrtTensorTypeAndShapeInfo* info, size_t* out))            \
  X(62, 1, GetDimensions, OrtStatus*, (const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t rank))   \
  X(65, 1, GetTensorTypeAndShape, OrtStatus*, (const OrtValue* value, OrtTensorTypeAndShapeInfo** out))     \
  X(69, 1, CreateCpuMemoryInfo, OrtStatus*, (int allocator_type, int memory_type, OrtMemoryInfo** out))     \
  X(76, 1, AllocatorFree, OrtStatus*, (OrtAllocator * allocator, void* memory))                             \
  X(78, 1, GetAllocatorWithDefaultOptions, OrtStatus*, (OrtAllocator * *out))                               \
  X(85, 1, KernelInfoGetAttribute_float, OrtStatus*,                                                        \
    (const OrtKernelInfo* info, const char* name, float* out))                                              \
  X(86, 1, KernelInfoGetAttribute_int64, OrtStatus*,                                                        \
    (const OrtKernelInfo* info, const char* name, int64_t* out))                                            \
  X(90, 1, KernelContext_GetInput, OrtStatus*,                                                              \
    (const OrtKernelContext* context, size_t index, const OrtValue** out))                                  \
  X(91, 1, KernelContext_GetOutput, OrtStatus*,                                                             \
    (OrtKernelContext * context, size_t index, const int64_t* shape, size_t rank, OrtValue** out))          \
  X(93, 1, ReleaseStatus, void, (OrtStatus * status))                                                       \
  X(94, 1, ReleaseMemoryInfo, void, (OrtMemoryInfo * memory))                                               \
  X(95, 1, ReleaseSession, void, (OrtSession * session))                                                    \
  X(96, 1, ReleaseValue, void, (OrtValue * value))                                                          \
  X(99, 1, ReleaseTensorTypeAndShapeInfo, void, (OrtTensorTypeAndShapeInfo * info))                         \
  X(100, 1, ReleaseSessionOptions, void, (OrtSessionOptions * options))                                     \
  X(101, 1, ReleaseCustomOpDomain, void, (OrtCustomOpDomain * domain))                                      \
  X(130, 5, AddSessionConfigEntry, OrtStatus*,                                                              \
    (OrtSessionOptions * options, const char* key, const char* value))

struct Api {
#define SPKV_FUNCTION(position, since, name, Result, arguments) \
  static_assert(since <= kApiVersion, #name);                   \
  Result(*name) arguments;
  SPKV_ONNXRUNTIME_FUNCTIONS(SPKV_FUNCTION)
#undef SPKV_FUNCTION

  explicit Api(const void* table) {
    auto functions = static_cast<void* const*>(table);
#define SPKV_FUNCTION(position, since, name, Result, arguments) \
  name = reinterpret_cast<Result(*) arguments>(functions[position]);
    SPKV_ONNXRUNTIME_FUNCTIONS(SPKV_FUNCTION)
#undef SPKV_FUNCTION
  }
};

// Numbers of the interface.
enum Element : int { kFloat = 1, kInt32 = 6, kInt64 = 7 };
enum ErrorCode : int {
  kFailed = 1,
  kInvalidArgument = 2,
  kNoSuchFile = 3,
  kNoModel = 4,
  kEngineError = 5,
  kRuntimeException = 6,
  kInvalidProtobuf = 7,
  kModelLoaded = 8,
  kNotImplemented = 9,
  kInvalidGraph = 10,
  kExecutionProviderFailed = 11,
};
enum Characteristic : int { kRequired = 0, kOptional = 1 };
constexpr int kLogFatal = 4;  // what fails is told by a status, to whoever asked
constexpr int kDeviceAllocator = 0;
constexpr int kDefaultMemory = 0;

// An operator that a program brings along: a struct of functions, filled in up to what `version` has. Null
// stands for what an operator has no need of.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const void* api, const OrtKernelInfo*);  // before version 16
  const char* (*name)(const CustomOp*);
  const char* (*execution_provider)(const CustomOp*);  // null: the CPU
  int (*input_type)(const CustomOp*, size_t index);
  size_t (*input_count)(const CustomOp*);
  int (*output_type)(const CustomOp*, size_t index);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void* kernel, OrtKernelContext*);  // before version 16
  void (*destroy_kernel)(void* kernel);
  int (*input_characteristic)(const CustomOp*, size_t index);
  int (*output_characteristic)(const CustomOp*, size_t index);
  int (*input_memory)(const CustomOp*, size_t index);  // since version 13
  int (*variadic_input_least)(const CustomOp*);        // since version 14, as the three below
  int (*variadic_input_alike)(const CustomOp*);
  int (*variadic_output_least)(const CustomOp*);
  int (*variadic_output_alike)(const CustomOp*);
  OrtStatus* (*create_kernel_v2)(const CustomOp*, const void* api, const OrtKernelInfo*,
                                 void** kernel);              // 16
  OrtStatus* (*compute_v2)(void* kernel, OrtKernelContext*);  // 16
  void* later[16];  // what later versions look for, if they look without asking for the version: nothing
};

}  // namespace onnxruntime
}  // namespace spkv
