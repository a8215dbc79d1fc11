#include "cuda/device_context.h"

#include <algorithm>

namespace spkv {
namespace cuda {
namespace {

constexpr int64_t kScratchAlignment = 1024;

}  // namespace

Status check(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return Status();
  cudaGetLastError();  // or it would be found again after the next launch
  const char* words = cudaGetErrorString(error);
  if (error == cudaErrorMemoryAllocation)
    return fail(Code::kOutOfMemory, "The device's memory was exhausted while %s", doing);
  return fail(Code::kInternal, "CUDA failed while %s: %s", doing, words);
}

std::unique_ptr<DeviceContext> DeviceContext::open(const CudaOptions& options, Status* status) {
  const int ordinal = options.ordinal;
  std::unique_ptr<DeviceContext> context(new DeviceContext());
  context->exact_ = options.exact;
  context->time_products_ = options.time_products;
  *status = context->describe(ordinal);
  if (!status->ok()) return nullptr;
  context->memory_ = StreamMemory::open(ordinal, status);
  if (!status->ok()) return nullptr;
  context->matrices_ = open_matrix_library(status);
  if (!status->ok()) return nullptr;
  *status = context->faults_.open(context->memory_->stream());
  if (status->ok())
    *status =
        check(cudaStreamCreateWithFlags(&context->recorder_, cudaStreamNonBlocking), "creating a stream");
  return status->ok() ? std::move(context) : nullptr;
}

Status DeviceContext::describe(int ordinal) {
  cudaDeviceProp properties;
  SPKV_RETURN_IF_ERROR(
      check(cudaGetDeviceProperties(&properties, ordinal), "asking for the device's properties"));
  multiprocessors_ = properties.multiProcessorCount;
  capability_ = 10 * properties.major + properties.minor;
  description_ = std::string(properties.name) + ", " + std::to_string(multiprocessors_) +
                 " multiprocessors, " + std::to_string(properties.totalGlobalMem >> 30) + " GiB";
  if (capability_ >= 80) return Status();
  return fail(Code::kDevice, "Expected a GPU of compute capability 8.0 or more but cuda:%d (%s) has %d.%d",
              ordinal, properties.name, properties.major, properties.minor);
}

DeviceContext::~DeviceContext() {
  if (!memory_) return;
  memory_->make_current();
  cudaStreamSynchronize(memory_->stream());
  for (void* block : scratch_memory_) memory_->give_back(block);
  if (recorder_) cudaStreamDestroy(recorder_);
}

Status DeviceContext::finish() {
  std::vector<cudaGraphExec_t> retired = memory_->retired();
  Status status = faults_.read(stream());
  Status waited = check(cudaStreamSynchronize(stream()), "waiting for the device");
  StreamMemory::destroy(retired);
  // A device that has failed stays failed: CUDA says so to every later call.
  SPKV_RETURN_IF_ERROR(waited);
  SPKV_RETURN_IF_ERROR(status);
  return faults_.found(stream());
}

void* DeviceContext::scratch(Scratch purpose, int64_t bytes, Status* status) {
  Block& block = scratch_[static_cast<int>(purpose)];
  if (block.aligned && block.bytes >= bytes) return block.aligned;
  // At least twice as much as before: a growing prompt must not leave a trail of blocks.
  int64_t size = bytes > 2 * block.bytes ? bytes : 2 * block.bytes;
  size = (size / kScratchAlignment + 1) * kScratchAlignment;
  void* start = memory_->take(size + kScratchAlignment);
  if (!start) {
    *status = fail(Code::kOutOfMemory, "Could not allocate %lld bytes of working memory on the device",
                   static_cast<long long>(size));
    return nullptr;
  }
  scratch_memory_.push_back(start);
  uintptr_t address = reinterpret_cast<uintptr_t>(start);
  block.aligned =
      static_cast<char*>(start) + (kScratchAlignment - address % kScratchAlignment) % kScratchAlignment;
  block.bytes = size;
  return block.aligned;
}

std::shared_ptr<void> DeviceContext::spare(int64_t bytes) {
  void* data = bytes <= memory_->free_bytes() / 2 ? memory_->take(bytes) : nullptr;
  if (!data) return nullptr;
  return std::shared_ptr<void>(data, [memory = memory_](void* start) { memory->give_back(start); });
}

const int32_t* DeviceContext::host_values(const View& view, Status* status, HostValues* replayed) {
  std::shared_ptr<Shadow> shadow = shadows_->find(view.data);
  if (!shadow) {
    *status = fail(Code::kUnsupported,
                   "Expected a tensor of at most 1 MiB for slots and offsets, for the host has to know them");
    return nullptr;
  }
  const bool written_here = recording() && shadow->recorded_in == recordings_;
  if (recording() && (!shadow->known || written_here)) {
    *status = fail(Code::kUnsupported, "In a graph, slots and offsets must be written from the host before");
    return nullptr;
  }
  if (!shadow->known) {
    std::vector<char> content(static_cast<size_t>(shadow->bytes));
    *status = copy_to_host(content.data(), shadow->start, shadow->bytes);
    if (!status->ok()) return nullptr;
    shadow->write(shadow->start, content.data(), shadow->bytes);
  }
  HostValues known = [shadow, data = view.data]() -> const int32_t* {
    return shadow->known ? reinterpret_cast<const int32_t*>(shadow->at(data)) : nullptr;
  };
  const int32_t* values = known();
  if (replayed) {
    *replayed = std::move(known);
  } else if (recording()) {
    depend([known, recorded = std::vector<int32_t>(values, values + view.size())] {
      const int32_t* now = known();
      return now && std::equal(recorded.begin(), recorded.end(), now);
    });
  }
  return values;
}

void DeviceContext::overwritten(const View& view) {
  if (!view || view.size() == 0) return;
  std::shared_ptr<Shadow> shadow = shadows_->find(view.data);
  if (!shadow) return;
  if (!recording()) {
    shadow->known = false;
    return;
  }
  shadow->recorded_in = recordings_;
  on_replay([shadow] { shadow->known = false; });
}

void DeviceContext::depend(std::function<bool()> valid) {
  if (recording_) recording_->dependencies.push_back(std::move(valid));
}

void DeviceContext::on_replay(std::function<void()> effect) {
  if (recording_) recording_->effects.push_back(std::move(effect));
}

Status DeviceContext::run(const Graph& graph, Execution& execution, const std::function<bool()>& check) {
  for (const Command& command : graph.commands) {
    if (!check()) break;
    SPKV_RETURN_IF_ERROR(command(execution));
  }
  return Status();
}

Status DeviceContext::launch(const Graph& graph, Execution& execution, const std::function<bool()>& check) {
  auto* compiled = static_cast<CompiledGraph*>(graph.compiled.get());
  if (!compiled) {
    graph.compiled = std::make_shared<CompiledGraph>(memory_);
    return run(graph, execution, check);
  }
  if (compiled->unsupported) return run(graph, execution, check);
  const bool valid = compiled->executable && compiled->valid();
  if (compiled->executable && !valid && !compiled->doubted) {
    compiled->doubted = true;
    return run(graph, execution, check);
  }
  compiled->doubted = false;
  if (!valid) {
    compiled->drop();
    recording_ = compiled;
    recordings_++;
    Status status = record(graph, execution, recorder_, compiled);
    recording_ = nullptr;
    if (!status.ok()) {
      compiled->drop();
      if (status.code != Code::kUnsupported) return status;
      compiled->unsupported = true;
      return run(graph, execution, check);
    }
    // What has come between the first run and this one may be in its way already.
    if (!compiled->valid()) {
      compiled->drop();
      return run(graph, execution, check);
    }
  }
  SPKV_RETURN_IF_ERROR(cuda::check(cudaGraphLaunch(compiled->executable, stream()), "launching a graph"));
  for (const auto& effect : compiled->effects) effect();
  return Status();
}

Status DeviceContext::copy_to_host(void* host, const void* device, int64_t bytes) {
  if (bytes == 0) return Status();
  cudaError_t error =
      cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream());
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream());
  return check(error, "reading from the device");
}

Status DeviceContext::copy_from_host(void* device, const void* host, int64_t bytes) {
  if (bytes == 0) return Status();
  // The host's bytes are pageable, so CUDA has put them aside when the call returns.
  SPKV_RETURN_IF_ERROR(
      check(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream()),
            "writing to the device"));
  if (std::shared_ptr<Shadow> shadow = shadows_->find(device)) shadow->write(device, host, bytes);
  return Status();
}

}  // namespace cuda
}  // namespace spkv
