// Which of several ways to do the same work is the fastest on this GPU, found out by trying.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace spkv {
namespace cuda {

// Runs the ways 0 to count - 1 in turns and returns the fastest. `enqueue` puts one of them on the stream, or
// returns false where it cannot be had. Way 0 is the one to take without trying: it is returned unless
// another is clearly faster, and where nothing can be timed. Waits for the stream, which must not be
// recording.
int fastest_of(int count, const std::function<bool(int way)>& enqueue, cudaStream_t stream);

}  // namespace cuda
}  // namespace spkv
