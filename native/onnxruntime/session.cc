#include "onnxruntime/session.h"

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#endif

#include <cstring>

#include "core/thread_pool.h"

namespace spkv {
namespace onnxruntime {
namespace {

constexpr const char* kInputNames[] = {"input_ids", "position_ids", "logit_rows", "sequence_slots",
                                       "sequence_offsets"};
constexpr int kInputCount = 5;
constexpr int kWidened = 3;  // the first of them are i64
constexpr const char* kOutputName = "logits";

// A thread passes the cores that it may use on to those that it starts. The stream's thread is kept on one of
// them; onnxruntime's shall have all that the process has.
class AllCores {
 public:
#if defined(__linux__)
  AllCores() {
    cpu_set_t all;
    restore_ = sched_getaffinity(0, sizeof before_, &before_) == 0 &&
               sched_getaffinity(getpid(), sizeof all, &all) == 0 &&
               sched_setaffinity(0, sizeof all, &all) == 0;
  }
  ~AllCores() {
    if (restore_) sched_setaffinity(0, sizeof before_, &before_);
  }

 private:
  cpu_set_t before_;
  bool restore_ = false;
#endif
};

// onnxruntime's values over our memory, for the time of a run.
class Values {
 public:
  Values(const Library* library, const OrtMemoryInfo* memory) : library_(library), memory_(memory) {}
  ~Values() {
    for (OrtValue* value : values_) library_->api().ReleaseValue(value);
  }
  Status add(const char* name, void* data, int element, int64_t bytes, const int64_t* shape, size_t rank) {
    // onnxruntime wants an address for an empty tensor, too.
    static int64_t nothing;
    OrtValue* value = nullptr;
    SPKV_RETURN_IF_ERROR(library_->take(
        library_->api().CreateTensorWithDataAsOrtValue(
            memory_, data ? data : &nothing, static_cast<size_t>(bytes), shape, rank, element, &value),
        name));
    names_.push_back(name);
    values_.push_back(value);
    return Status();
  }
  size_t size() const { return values_.size(); }
  const char* const* names() const { return names_.data(); }
  OrtValue** values() { return values_.data(); }

 private:
  const Library* library_;
  const OrtMemoryInfo* memory_;
  std::vector<const char*> names_;
  std::vector<OrtValue*> values_;
};

// The numbers of a [n] i32 view, or 0 to n - 1 where it is absent.
void widen(const View& view, int64_t count, std::vector<int64_t>* out) {
  out->resize(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i++)
    (*out)[static_cast<size_t>(i)] = view ? view.as<int32_t>()[i * view.stride[0]] : i;
}

}  // namespace

std::shared_ptr<Session> Session::open(const Library* library, const std::string& path, int threads,
                                       Execution& execution, Status* status) {
  std::shared_ptr<Session> session(new Session(library));
  AllCores cores;
  *status = session->create(path, threads > 0 ? threads : execution.pool->threads());
  if (status->ok()) *status = session->read_inputs();
  return status->ok() ? session : nullptr;
}

Session::~Session() {
  if (session_) api().ReleaseSession(session_);
  if (memory_) api().ReleaseMemoryInfo(memory_);
  if (domain_) api().ReleaseCustomOpDomain(domain_);
}

Status Session::create(const std::string& path, int threads) {
  OrtSessionOptions* options = nullptr;
  SPKV_RETURN_IF_ERROR(library_->take(api().CreateSessionOptions(&options), "session options"));
  Status status = create_with(options, path, threads);
  api().ReleaseSessionOptions(options);
  return status;
}

Status Session::create_with(OrtSessionOptions* options, const std::string& path, int threads) {
  auto take = [&](OrtStatus* status, const char* doing) { return library_->take(status, doing); };
  SPKV_RETURN_IF_ERROR(take(api().SetIntraOpNumThreads(options, threads), "setting the threads"));
  SPKV_RETURN_IF_ERROR(take(api().SetSessionLogSeverityLevel(options, kLogFatal), "setting the log level"));
  // Threads that wait by spinning would take the cores from those that compute attention.
  SPKV_RETURN_IF_ERROR(take(api().AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"),
                            "turning spinning off"));
  SPKV_RETURN_IF_ERROR(take(api().CreateCustomOpDomain("ai.spkv", &domain_), "making a domain"));
  SPKV_RETURN_IF_ERROR(take(api().CustomOpDomain_Add(domain_, &operator_), "adding the operator"));
  SPKV_RETURN_IF_ERROR(take(api().AddCustomOpDomain(options, domain_), "adding the domain"));
  SPKV_RETURN_IF_ERROR(
      take(api().CreateCpuMemoryInfo(kDeviceAllocator, kDefaultMemory, &memory_), "describing memory"));
  return take(api().CreateSession(library_->env(), path.c_str(), options, &session_), "loading the graph");
}

// Graphs take of our inputs what they need.
Status Session::read_inputs() {
  size_t count = 0;
  OrtAllocator* allocator = nullptr;
  SPKV_RETURN_IF_ERROR(library_->take(api().SessionGetInputCount(session_, &count), "reading the graph"));
  SPKV_RETURN_IF_ERROR(library_->take(api().GetAllocatorWithDefaultOptions(&allocator), "reading the graph"));
  for (size_t i = 0; i < count; i++) {
    char* name = nullptr;
    SPKV_RETURN_IF_ERROR(
        library_->take(api().SessionGetInputName(session_, i, allocator, &name), "reading the graph"));
    int found = 0;
    while (found < kInputCount && strcmp(name, kInputNames[found]) != 0) found++;
    Status status = found < kInputCount
                        ? Status()
                        : fail(Code::kFile, "The graph has an input \"%s\" that spkv does not know", name);
    SPKV_RETURN_IF_ERROR(library_->take(api().AllocatorFree(allocator, name), "reading the graph"));
    SPKV_RETURN_IF_ERROR(status);
    inputs_.push_back(found);
  }
  return Status();
}

Status Session::run(const RunParams& params, Execution& execution) {
  int64_t tokens = params.ids.shape[0], sequences = params.slots.shape[0];
  int64_t logits_shape[2] = {params.logits ? params.logits.shape[0] : 0,
                             params.logits ? params.logits.shape[1] : params.vocabulary};
  widen(params.ids, tokens, &widened_[0]);
  widen(params.positions, tokens, &widened_[1]);
  widen(params.rows, logits_shape[0], &widened_[2]);
  Values inputs(library_, memory_), outputs(library_, memory_);
  const int64_t counts[kInputCount] = {tokens, tokens, logits_shape[0], sequences, sequences + 1};
  void* const data[kInputCount] = {widened_[0].data(), widened_[1].data(), widened_[2].data(),
                                   params.slots.data, params.offsets.data};
  for (int input : inputs_) {
    bool wide = input < kWidened;
    SPKV_RETURN_IF_ERROR(inputs.add(kInputNames[input], data[input], wide ? kInt64 : kInt32,
                                    counts[input] * (wide ? 8 : 4), &counts[input], 1));
  }
  SPKV_RETURN_IF_ERROR(outputs.add(kOutputName, params.logits.data, kFloat,
                                   logits_shape[0] * logits_shape[1] * 4, logits_shape, 2));
  AttentionStep step;
  step.cache = params.cache;
  step.keys = params.keys;
  step.values = params.values;
  step.utilities = params.utilities;
  step.operations = params.operations;
  step.execution = &execution;
  operator_.step = &step;
  Status status = library_->take(api().Run(session_, nullptr, inputs.names(), inputs.values(), inputs.size(),
                                           outputs.names(), outputs.size(), outputs.values()),
                                 "running the graph");
  operator_.step = nullptr;
  return step.failure.ok() ? status : step.failure;
}

}  // namespace onnxruntime
}  // namespace spkv
