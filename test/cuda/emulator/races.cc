#include "emulator/races.h"

#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include "emulator/block.h"
#include "emulator/race_shadow.h"

namespace spkv_emulator {
namespace races {

bool watching = false;

namespace {

bool asked_for_racecheck() {
  const char* asked = getenv("SPKV_EMULATED_RACES");
  if (asked && strcmp(asked, "racecheck") != 0) fail("SPKV_EMULATED_RACES=%s: not racecheck", asked);
  return asked != nullptr;
}

struct GroupState {
  uint32_t agent = 0;  // 0: not used yet, agent 0 being a thread
  uint32_t group = 1;  // that the next belongs to
};

struct Thread {
  View view;
  uint32_t epoch = 1;             // of what it does now; nobody has seen that yet
  View released[2], acquired[2];  // by Scope: before its last fence, and by atomics since
  GroupState groups[static_cast<int>(Group::kCount)], matrix;
};

struct Barrier {
  Meeting meeting = Meeting(true);
  Record made = {};
  uint32_t agent = 0, phase = 0;
};

// What atomics to an address have released.
struct Atomic {
  View device, block;
  uint32_t block_number = 0;
};

uint32_t launch = 0, block = 0, agents = 0;
uint32_t first_seen = 0;                   // launches that those of this one have seen from the start
uint32_t next_seen = 0, block_allows = 0;  // the same for the next one, if it begins early
bool allowed = false;
std::vector<Thread> threads;
std::vector<uint32_t> matrix_agents;             // by warp
std::unordered_map<uint32_t, Barrier> barriers;  // by shared address
std::unordered_map<const void*, Atomic> atomics;

uint32_t new_agent() { return agents++; }
int current() { return thread_number(); }

ClockRef joined(const ClockRef& a, const ClockRef& b) {
  if (a == b || !b) return a;
  if (!a) return b;
  static ClockRef from, with, both;  // many threads do the same one after another
  if (from != a || with != b) {
    auto clock = std::make_shared<Clock>(*a);
    clock->include(b);
    from = a, with = b, both = clock;
  }
  return both;
}

ClockRef advanced(const ClockRef& a, uint32_t agent, uint32_t epoch) {
  if (a->of(agent) >= epoch) return a;
  static ClockRef from, later;
  static uint32_t with, to;
  if (from != a || with != agent || to != epoch) {
    auto clock = std::make_shared<Clock>(*a);
    clock->include(agent, epoch);
    from = a, with = agent, to = epoch, later = clock;
  }
  return later;
}

Record record_of(uint32_t agent, Agent kind, uint32_t epoch, Access access, const void* code) {
  return {launch, block, epoch, static_cast<uint16_t>(agent), kind, access, 0, code};
}

void check_for_current(const void* at, size_t bytes, const Record& record, bool beside) {
  Observer observer = {&threads[static_cast<size_t>(current())].view, current(), beside};
  Check(record, &observer, 1).add(at, bytes);
}

uint32_t own_epoch() { return threads[static_cast<size_t>(current())].epoch; }

// For one who has to have seen that it was made.
Barrier& made_barrier(uint32_t address, Access kind, const void* code) {
  Barrier& barrier = barriers[address];
  Record now = record_of(static_cast<uint32_t>(current()), Agent::kThread, own_epoch(), kind, code);
  check_order(from_shared_address(address), barrier.made, now,
              {&threads[static_cast<size_t>(current())].view, current(), false});
  return barrier;
}

// What the thread has seen and done; what it does from here on is not in it.
View release(int thread) {
  Thread& me = threads[static_cast<size_t>(thread)];
  View view = {advanced(me.view.seen, static_cast<uint32_t>(thread), me.epoch), me.view.published};
  me.epoch++;
  return view;
}

void order_by_atomic(const void* at) {
  Thread& me = threads[static_cast<size_t>(current())];
  const View *block_released = &me.released[static_cast<int>(Scope::kBlock)],
             *device_released = &me.released[static_cast<int>(Scope::kDevice)];
  auto found = atomics.find(at);
  if (found != atomics.end()) {
    const Atomic& atomic = found->second;
    me.acquired[static_cast<int>(Scope::kDevice)].include(atomic.device);
    if (atomic.block_number == block) me.acquired[static_cast<int>(Scope::kBlock)].include(atomic.block);
  }
  if (!block_released->seen) return;
  Atomic& atomic = atomics[at];
  if (device_released->seen) atomic.device.include(*device_released);
  if (atomic.block_number != block) atomic.block = View();
  atomic.block_number = block;
  atomic.block.include(*block_released);
}

}  // namespace

bool like_racecheck = asked_for_racecheck();

bool on() {
#if defined(SPKV_EMULATED_RACES)
  return true;
#else
  return false;
#endif
}

const void* here() { return __builtin_return_address(0); }

// --- What runs.

void begin_launch(bool early) {
  launch++;
  first_seen = early ? next_seen : launch - 1;
  next_seen = launch - 1;
  atomics.clear();
}

void begin_block(int count, uint32_t number) {
  if (!on()) return;
  block = number;
  agents = static_cast<uint32_t>(count);
  allowed = false;
  auto clock = std::make_shared<Clock>();
  clock->block = block;
  clock->launches = first_seen;
  threads.assign(static_cast<size_t>(count), Thread());
  for (Thread& thread : threads) thread.view = {clock, clock};
  matrix_agents.assign(static_cast<size_t>(count + 31) / 32, 0);
  barriers.clear();
  watching = true;
}

void end_block() {
  watching = false;
  if (allowed) next_seen = std::min(next_seen, block_allows);
}

void order_launches() { next_seen = launch; }

void wait_for_previous_launch() {
  if (!watching) return;
  View& view = threads[static_cast<size_t>(current())].view;
  if (view.seen->launches >= launch - 1) return;
  auto clock = std::make_shared<Clock>(*view.seen);
  clock->launches = launch - 1;
  view.seen = clock;
}

// The next launch may begin once every block has said so, by its first thread that does.
void allow_next_launch() {
  if (!watching || allowed) return;
  allowed = true;
  block_allows = threads[static_cast<size_t>(current())].view.seen->launches;
}

// --- What threads access.

Pause::Pause() : was_watching_(watching) { watching = false; }
Pause::~Pause() { watching = was_watching_; }

void access(const void* at, size_t bytes, Access kind, const void* code) {
  if (!watching) return;
  auto thread = static_cast<uint32_t>(current());
  check_for_current(at, bytes, record_of(thread, Agent::kThread, threads[thread].epoch, kind, code), false);
}

AtomicAccess::AtomicAccess(const void* at, size_t bytes) : Pause() {
  if (!was_watching_) return;
  auto thread = static_cast<uint32_t>(current());
  check_for_current(
      at, bytes,
      record_of(thread, Agent::kThread, threads[thread].epoch, kAtomicWrite, __builtin_return_address(0)),
      false);
  order_by_atomic(at);
}

// --- What orders threads.

void View::include(const View& other) {
  seen = joined(seen, other.seen);
  published = joined(published, other.published);
}

void Meeting::arrive(int thread) {
  if (!on()) return;
  Thread& me = threads[static_cast<size_t>(thread)];
  if (!seen_) {
    seen_ = std::make_shared<Clock>();
    published_ = std::make_shared<Clock>();
    seen_->block = published_->block = block;
  }
  if (goes_on_) {
    if (me.view.seen != last_.seen) seen_->include(me.view.seen);
    if (me.view.published != last_.published) published_->include(me.view.published);
    last_ = me.view;
  }
  seen_->include(static_cast<uint32_t>(thread), me.epoch++);
}

void Meeting::complete(bool keep, uint32_t agent, uint32_t epoch) {
  if (!seen_) return;
  if (epoch > 0) seen_->include(agent, epoch);
  all_ = {seen_, published_};
  seen_ = keep ? std::make_shared<Clock>(*seen_) : nullptr;
  published_ = keep ? std::make_shared<Clock>(*published_) : nullptr;
  if (!keep) last_ = View();
}

void Meeting::leave(int thread) const {
  if (!on()) return;
  View& view = threads[static_cast<size_t>(thread)].view;
  if (goes_on_) {
    view.include(all_);
  } else {
    view.met = joined(all_.seen, view.met);
  }
}

void meet(int first_thread, uint32_t lanes) {
  if (!on()) return;
  Meeting meeting;
  for (int i = 0; i < 32; i++)
    if (lanes >> i & 1) meeting.arrive(first_thread + i);
  meeting.complete();
  for (int i = 0; i < 32; i++)
    if (lanes >> i & 1) meeting.leave(first_thread + i);
}

void fence(Scope scope) {
  if (!watching) return;
  Thread& me = threads[static_cast<size_t>(current())];
  View released = release(current());
  for (int i = 0; i <= static_cast<int>(scope); i++) {
    me.released[i] = released;
    me.view.include(me.acquired[i]);
  }
}

void publish_shared() {
  if (!watching) return;
  View& view = threads[static_cast<size_t>(current())].view;
  view.published = release(current()).seen;
}

// --- Agents that run beside the threads.

void barrier_init(uint32_t barrier, const void* code) {
  if (!watching) return;
  access(from_shared_address(barrier), 8, kWrite, code);
  Barrier& made = barriers[barrier] = Barrier();
  made.made = record_of(static_cast<uint32_t>(current()), Agent::kThread, own_epoch(), kWrite, code);
  made.agent = new_agent();
}

void barrier_arrive(uint32_t barrier, const void* code) {
  if (!watching) return;
  made_barrier(barrier, kAtomicWrite, code).meeting.arrive(current());
}

void barrier_complete(uint32_t barrier) {
  if (!watching) return;
  Barrier& completed = barriers[barrier];
  completed.meeting.complete(true, completed.agent, ++completed.phase);
}

void barrier_waited(uint32_t barrier, const void* code) {
  if (!watching) return;
  made_barrier(barrier, kAtomic, code).meeting.leave(current());
}

void bulk_copy(const void* to, const void* from, size_t bytes, uint32_t barrier, const void* code) {
  if (!watching) return;
  const Barrier& counts = barriers[barrier];
  check_for_current(to, bytes, record_of(counts.agent, Agent::kBulkCopy, counts.phase + 1, kWrite, code),
                    true);
  check_for_current(from, bytes, record_of(counts.agent, Agent::kBulkCopy, counts.phase + 1, kRead, code),
                    true);
}

void group_access(Group group, const void* at, size_t bytes, Access kind, const void* code) {
  if (!watching) return;
  if (like_racecheck) {
    if (group == Group::kCopies) access(at, bytes, kind, code);
    return;
  }
  static const Agent kinds[] = {Agent::kCopy, Agent::kBulkRead, Agent::kBulkResult};
  GroupState& state = threads[static_cast<size_t>(current())].groups[static_cast<int>(group)];
  if (state.agent == 0) state.agent = new_agent();
  Agent agent = kinds[static_cast<int>(group)];
  check_for_current(at, bytes, record_of(state.agent, agent, state.group, kind, code), agent != Agent::kCopy);
}

void end_group(Group group) {
  if (watching) threads[static_cast<size_t>(current())].groups[static_cast<int>(group)].group++;
}

void wait_for_groups(Group group, int newest) {
  if (!watching) return;
  Thread& me = threads[static_cast<size_t>(current())];
  const GroupState& state = me.groups[static_cast<int>(group)];
  auto over = static_cast<int64_t>(state.group) - 1 - newest;
  if (state.agent != 0 && over > 0)
    me.view.seen = advanced(me.view.seen, state.agent, static_cast<uint32_t>(over));
}

MatrixReads::MatrixReads(int first_thread, const void* code) {
  if (!on() || like_racecheck) return;
  uint32_t& agent = matrix_agents[static_cast<size_t>(first_thread / 32)];
  if (agent == 0) agent = new_agent();
  for (int i = first_thread; i < first_thread + 32; i++) {
    const View& view = threads[static_cast<size_t>(i)].view;
    if (observers_.empty() || !(*observers_.back().view == view)) observers_.push_back({&view, i, true});
  }
  uint32_t epoch = threads[static_cast<size_t>(first_thread)].matrix.group;
  check_ = std::make_unique<Check>(record_of(agent, Agent::kMatrix, epoch, kRead, code), observers_.data(),
                                   static_cast<int>(observers_.size()));
}

MatrixReads::~MatrixReads() = default;

void MatrixReads::add(const void* at, size_t bytes) {
  if (check_) check_->add(at, bytes);
}

void end_matrix_group() {
  if (watching) threads[static_cast<size_t>(current())].matrix.group++;
}

void wait_for_matrix_groups(int newest) {
  if (!watching) return;
  Thread& me = threads[static_cast<size_t>(current())];
  uint32_t agent = matrix_agents[static_cast<size_t>(current() / 32)];
  auto over = static_cast<int64_t>(me.matrix.group) - 1 - newest;
  if (agent != 0 && over > 0) me.view.seen = advanced(me.view.seen, agent, static_cast<uint32_t>(over));
}

}  // namespace races
}  // namespace spkv_emulator
