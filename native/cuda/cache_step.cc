// What the operations on the cache ask before they enqueue: is the step valid, and is there room for it. The
// host answers from upper bounds; it asks the device only where those do not suffice.
#include <algorithm>

#include "cuda/cache.h"

namespace spkv {
namespace cuda {

Status CudaCache::read_step(Context& context, const View& slots, const View& offsets) {
  Status status;
  step_slots_.clear();
  if (slots.shape[0] > 0) {
    const int32_t* values = context.host_values(slots, &status, &replayed_slots_);
    if (!values) return status;
    step_slots_.assign(values, values + slots.shape[0]);
  }
  const int32_t* values = context.host_values(offsets, &status);
  if (!values) return status;
  step_offsets_.assign(values, values + slots.shape[0] + 1);
  return Status();
}

// All but the lengths.
Status CudaCache::check_step(int64_t tokens) {
  size_t batch = step_slots_.size();
  step_++;
  bool rising = step_offsets_[0] == 0 && step_offsets_[batch] == tokens;
  for (size_t b = 0; b < batch; b++) {
    rising = rising && step_offsets_[b] <= step_offsets_[b + 1];
    SPKV_RETURN_IF_ERROR(check(step_slots_[b]));
    Sequence& named = sequence(step_slots_[b]);
    if (named.seen == step_)
      return fail(Code::kInvalidArgument, "Expected different sequences for slots but %d is there twice",
                  step_slots_[b]);
    named.seen = step_;
  }
  if (!rising)
    return fail(Code::kInvalidArgument, "Expected offsets to rise from 0 to %lld, the number of new tokens",
                static_cast<long long>(tokens));
  return Status();
}

bool CudaCache::may_share(const int32_t* slots, size_t batch) const {
  return std::any_of(slots, slots + batch,
                     [this](int32_t slot) { return sequence(slot).family.use_count() > 1; });
}

// In any list, when `tokens` more have arrived.
int64_t CudaCache::kept_at_most(const Sequence& sequence, int64_t tokens) const {
  return std::min(sequence.kept + tokens, std::max<int64_t>(0, sequence.length + tokens - geometry_.window));
}

bool CudaCache::fits(const Sequence& sequence, int64_t tokens) const {
  return sequence.length + tokens <= INT32_MAX &&
         table_pages_for(kept_at_most(sequence, tokens)) <= state_.table_pages;
}

// The lengths and counts that are true once everything enqueued has run. Waits for it.
Status CudaCache::refresh() {
  std::vector<int32_t> lengths(static_cast<size_t>(state_.sequences)), kept;
  SPKV_RETURN_IF_ERROR(read(lengths.data(), state_.length, int64_t{state_.sequences} * 4));
  for (size_t slot = 0; slot < sequences_.size(); slot++) {
    Sequence& live = sequences_[slot];
    if (!live.live) continue;
    SPKV_RETURN_IF_ERROR(read_lists(&kept, state_.kept, static_cast<int32_t>(slot), 1));
    live.length = lengths[slot];
    live.kept = *std::max_element(kept.begin(), kept.end());
  }
  return Status();
}

// For twice the step's tokens: what is recorded behind this step finds room, too.
Status CudaCache::make_room() {
  auto tokens = [&](size_t b) { return int64_t{step_offsets_[b + 1]} - step_offsets_[b]; };
  auto all_fit = [&](int64_t times) {
    for (size_t b = 0; b < step_slots_.size(); b++)
      if (!fits(sequence(step_slots_[b]), times * tokens(b))) return false;
    return true;
  };
  if (all_fit(2)) return Status();
  SPKV_RETURN_IF_ERROR(refresh());
  int64_t most = 0;
  for (size_t b = 0; b < step_slots_.size(); b++) {
    const Sequence& grows = sequence(step_slots_[b]);
    if (grows.length + tokens(b) > INT32_MAX)
      return fail(Code::kOutOfRange, "A sequence cannot have more than %d tokens", INT32_MAX);
    most = std::max(most, table_pages_for(kept_at_most(grows, 2 * tokens(b))));
  }
  if (most <= state_.table_pages) return Status();
  int64_t doubled =
      std::min(int64_t{2} * state_.table_pages, geometry_.ring_pages() + geometry_.capacity_pages);
  return grow(state_.sequences, std::max(most, doubled));
}

// Whether the step can be replayed with these slots. What was recorded for shared pages is right for others,
// too.
bool CudaCache::holds(const RecordedStep& step, const int32_t* slots) {
  step_++;
  for (size_t b = 0; b < step.batch(); b++) {
    if (!check(slots[b]).ok()) return false;
    Sequence& named = sequence(slots[b]);
    if (named.seen == step_ || !fits(named, named.ahead + step.tokens(b))) return false;
    named.seen = step_;
  }
  return step.shared || !may_share(slots, step.batch());
}

bool CudaCache::holds(const Recording& recording) {
  if (recording.layout != layout_) return false;
  for (Sequence& each : sequences_) each.ahead = 0;
  for (const RecordedStep& step : recording.steps) {
    const int32_t* slots = step.slots();
    if (!slots || !holds(step, slots)) return false;
    for (size_t b = 0; step.inserted && b < step.batch(); b++) sequence(slots[b]).ahead += step.tokens(b);
  }
  return true;
}

// Tells the recording under way what the step depends on.
void CudaCache::announce(Context& context, const Step& step) {
  if (!recording_ || recording_->number != context.recording_number()) {
    recording_ = std::make_shared<Recording>();
    recording_->number = context.recording_number();
    recording_->layout = layout_;
    context.depend([this, recording = recording_] { return holds(*recording); });
  }
  std::vector<RecordedStep>& steps = recording_->steps;
  if (!steps.empty() && !steps.back().inserted && steps.back().device_slots == step.device_slots &&
      steps.back().offsets == step_offsets_)
    return;
  steps.push_back({step.device_slots, replayed_slots_, step_offsets_, step.shared});
}

Status CudaCache::begin_step(Context& context, const View& slots, const View& offsets, int64_t tokens,
                             Step* step) {
  SPKV_RETURN_IF_ERROR(read_step(context, slots, offsets));
  SPKV_RETURN_IF_ERROR(check_step(tokens));
  // A recording for which there is no room depends on there being some.
  if (!context.recording()) SPKV_RETURN_IF_ERROR(make_room());
  *step = Step();
  step->batch = static_cast<int>(step_slots_.size());
  step->tokens = tokens;
  step->slots = step_slots_.data();
  step->offsets = step_offsets_.data();
  step->device_slots = slots.as<int32_t>();
  step->device_offsets = offsets.as<int32_t>();
  step->decode = step->batch > 0;
  for (int b = 0; b < step->batch; b++) {
    int64_t count = int64_t{step_offsets_[b + 1]} - step_offsets_[b];
    step->longest = std::max(step->longest, count);
    step->decode = step->decode && count == 1;
  }
  step->shared = may_share(step_slots_.data(), step_slots_.size());
  if (context.recording()) announce(context, *step);
  return Status();
}

Status CudaCache::plan(Context& context, const Step& step, StepPlan* plan) {
  plan_.batch = step.batch;
  *plan = plan_;
  PlanKey key{content_,
              context.recording_number(),
              context.recording() ? step.device_slots : nullptr,
              {step.slots, step.slots + step.batch}};
  if (key == plan_key_) return Status();
  SPKV_RETURN_IF_ERROR(
      cuda::check(plan_step({state_, plan_, step.device_slots}, context.stream()), "planning a step"));
  plan_key_ = std::move(key);
  // A replay overwrites what was planned since.
  if (context.recording()) context.on_replay([this] { plan_key_ = PlanKey(); });
  return Status();
}

int64_t CudaCache::kept_pages(const Context& context, const Step& step) const {
  int64_t pages = 0;
  for (int b = 0; b < step.batch; b++)
    pages += context.recording() ? state_.table_pages : table_pages_for(sequence(step.slots[b]).kept);
  return (pages - int64_t{step.batch} * state_.ring_pages) * state_.kv_heads;
}

void CudaCache::advance(const int32_t* slots, const std::vector<int32_t>& offsets) {
  for (size_t b = 0; b + 1 < offsets.size(); b++) {
    Sequence& longer = sequence(slots[b]);
    int64_t tokens = int64_t{offsets[b + 1]} - offsets[b];
    longer.kept = kept_at_most(longer, tokens);
    longer.length += tokens;
  }
  content_++;
}

void CudaCache::inserted(Context& context, const Step& step) {
  if (!context.recording()) return advance(step.slots, step_offsets_);
  recording_->steps.back().inserted = true;
  content_++;
  context.on_replay([this, slots = replayed_slots_, offsets = step_offsets_] { advance(slots(), offsets); });
}

}  // namespace cuda
}  // namespace spkv
