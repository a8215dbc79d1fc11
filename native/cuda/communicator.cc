#include "cuda/communicator.h"

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "cuda/context.h"
#include "cuda/nccl_library.h"

namespace spkv {
namespace cuda {
namespace {

// Between two looks at a call that goes on in the background.
constexpr auto kPause = std::chrono::microseconds(50);

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(const NcclLibrary& nccl, const CommunicatorOptions& options,
                   std::shared_ptr<StreamMemory> memory)
      : nccl_(nccl), options_(options), memory_(std::move(memory)) {}

  ~NcclCommunicator() override {
    memory_->make_current();
    if (!in_flight_.empty()) abort();
    if (aborting_.joinable()) aborting_.join();
    if (stream_) cudaStreamSynchronize(stream_);
    if (comm_) nccl_.ncclCommDestroy(comm_);
    for (cudaEvent_t event : {ready_, done_})
      if (event) cudaEventDestroy(event);
    if (stream_) cudaStreamDestroy(stream_);
  }

  Status open() {
    memory_->make_current();
    SPKV_RETURN_IF_ERROR(
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"));
    for (cudaEvent_t* event : {&ready_, &done_})
      SPKV_RETURN_IF_ERROR(
          check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "creating an event"));
    return Status();
  }

  Status connect() override {
    NcclConfig config;
    return call("meeting the other ranks", [&] {
      return nccl_.ncclCommInitRankConfig(&comm_, options_.size, NcclId{options_.id}, options_.rank, &config);
    });
  }

  Status all_reduce(const View& x, std::shared_ptr<void> storage) override {
    if (!comm_ && !aborted_)
      return fail(Code::kInvalidArgument, "Expected connect() before the first sum over the ranks");
    if (x.size() == 0) return Status();
    SPKV_RETURN_IF_ERROR(order(memory_->stream(), ready_, stream_));
    in_flight_.push_back(std::move(storage));
    return call("summing over the ranks", [&] {
      return nccl_.ncclAllReduce(x.data, x.data, static_cast<size_t>(x.size()), kNcclFloat32, kNcclSum, comm_,
                                 stream_);
    });
  }

  Status join() override {
    SPKV_RETURN_IF_ERROR(order(stream_, done_, memory_->stream()));
    in_flight_.clear();  // freed in the order of the device's stream
    return Status();
  }

  Status failure() override {
    if (aborted_) return Status();
    std::lock_guard<std::mutex> lock(mutex_);
    const int state = comm_ ? background() : kNcclSuccess;
    return state == kNcclInProgress ? Status() : nccl_.check(state, comm_, "summing over the ranks");
  }

  // In a thread of its own, since it waits for the device to give up too.
  void abort() override {
    if (aborted_.exchange(true)) return;
    aborting_ = std::thread([this] {
      memory_->make_current();
      std::lock_guard<std::mutex> lock(mutex_);
      if (comm_) nccl_.ncclCommAbort(comm_);
      comm_ = nullptr;
    });
  }

 private:
  // Calls a function of NCCL and waits until it has done what it does on the host.
  template <typename Function>
  Status call(const char* doing, const Function& function) {
    for (bool called = false;; called = true) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (aborted_) return fail(Code::kAborted, "Another rank has ended while %s", doing);
        const int state = called ? background() : function();
        if (state != kNcclInProgress) return nccl_.check(state, comm_, doing);
      }
      std::this_thread::sleep_for(kPause);
    }
  }

  // How the call that was made last stands, or what else has gone wrong.
  int background() {
    int state = kNcclSuccess;
    const int result = nccl_.ncclCommGetAsyncError(comm_, &state);
    return result == kNcclSuccess ? state : result;
  }

  // What is enqueued on `second` from now on waits for what has been enqueued on `first`.
  static Status order(cudaStream_t first, cudaEvent_t event, cudaStream_t second) {
    SPKV_RETURN_IF_ERROR(check(cudaEventRecord(event, first), "recording an event"));
    return check(cudaStreamWaitEvent(second, event, 0), "waiting for an event");
  }

  const NcclLibrary nccl_;
  const CommunicatorOptions options_;
  const std::shared_ptr<StreamMemory> memory_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr, done_ = nullptr;
  std::vector<std::shared_ptr<void>> in_flight_;  // memory that sums are made in

  std::mutex mutex_;  // of comm_: held for the length of a call, none of which waits for other ranks
  void* comm_ = nullptr;
  std::atomic<bool> aborted_{false};
  std::thread aborting_;
};

}  // namespace

Status communicator_id(CommunicatorId* id) {
  NcclLibrary nccl;
  SPKV_RETURN_IF_ERROR(open_nccl(&nccl));
  NcclId made;
  SPKV_RETURN_IF_ERROR(nccl.check(nccl.ncclGetUniqueId(&made), nullptr, "preparing to meet other ranks"));
  *id = made.bytes;
  return Status();
}

std::unique_ptr<Communicator> create_communicator(const CommunicatorOptions& options,
                                                  std::shared_ptr<StreamMemory> memory, Status* status) {
  NcclLibrary nccl;
  *status = open_nccl(&nccl);
  if (!status->ok()) return nullptr;
  auto communicator = std::make_unique<NcclCommunicator>(nccl, options, std::move(memory));
  *status = communicator->open();
  if (!status->ok()) return nullptr;
  return communicator;
}

}  // namespace cuda
}  // namespace spkv
