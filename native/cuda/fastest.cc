#include "cuda/fastest.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace spkv {
namespace cuda {
namespace {

constexpr int kRounds = 7;         // the first of them loads what the others find loaded
constexpr float kHopeless = 1.5f;  // times the least time: not tried any longer
constexpr float kClearly = 0.98f;  // of the time of way 0
constexpr float kLongest = std::numeric_limits<float>::max(), kNever = std::numeric_limits<float>::infinity();

class Events {
 public:
  explicit Events(size_t count) : events_(count) {
    for (cudaEvent_t& event : events_) good_ = good_ && cudaEventCreate(&event) == cudaSuccess;
  }
  Events(const Events&) = delete;
  ~Events() {
    for (cudaEvent_t event : events_)
      if (event) cudaEventDestroy(event);
  }
  bool good() const { return good_; }
  cudaEvent_t operator[](size_t i) const { return events_[i]; }

 private:
  std::vector<cudaEvent_t> events_;
  bool good_ = true;
};

struct Way {
  int number;
  float least = kNever;  // milliseconds that it took
};

// Runs the ways one after another. One that cannot be had takes for ever.
cudaError_t run_in_turn(std::vector<Way>* ways, const std::function<bool(int)>& enqueue, const Events& events,
                        cudaStream_t stream) {
  // One more run ahead: while it lasts the others are enqueued, so that none of them waits for the host.
  enqueue(ways->front().number);
  cudaError_t error = cudaEventRecord(events[0], stream);
  std::vector<bool> ran;
  for (const Way& way : *ways) {
    ran.push_back(enqueue(way.number));
    if (error == cudaSuccess) error = cudaEventRecord(events[ran.size()], stream);
  }
  if (error == cudaSuccess) error = cudaEventSynchronize(events[ran.size()]);
  for (size_t i = 0; i < ran.size() && error == cudaSuccess; i++) {
    float time = kNever;
    if (ran[i]) error = cudaEventElapsedTime(&time, events[i], events[i + 1]);
    Way& way = (*ways)[i];
    way.least = ran[i] ? std::min(way.least, time) : kNever;
  }
  return error;
}

}  // namespace

int fastest_of(int count, const std::function<bool(int)>& enqueue, cudaStream_t stream) {
  const Events events(static_cast<size_t>(count) + 1);
  std::vector<Way> ways;
  for (int i = 0; i < count; i++) ways.push_back({i});
  const auto faster = [](const Way& a, const Way& b) { return a.least < b.least; };
  for (int round = 0; round < kRounds && ways.size() > 1; round++) {
    if (!events.good() || run_in_turn(&ways, enqueue, events, stream) != cudaSuccess) {
      cudaGetLastError();  // or it would be found again after the next launch
      return 0;
    }
    const float most =
        round == 0 ? kLongest : kHopeless * std::min_element(ways.begin(), ways.end(), faster)->least;
    ways.erase(std::remove_if(ways.begin(), ways.end(), [&](const Way& way) { return way.least > most; }),
               ways.end());
  }
  if (ways.empty()) return 0;
  const Way best = *std::min_element(ways.begin(), ways.end(), faster), &first = ways.front();
  return first.number == 0 && best.least > kClearly * first.least ? 0 : best.number;
}

}  // namespace cuda
}  // namespace spkv
