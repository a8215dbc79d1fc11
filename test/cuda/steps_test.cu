// Whole decode steps as one graph that is captured once and replayed: plan, attention of every layer, insert.
// The oracle keeps all pairs and utilities of every sequence and applies the rule of ops/attention.h.
#include "steps.cuh"
#include "tests.h"

namespace spkv_test {
namespace {

void remember(const Setup& setup, Numbers n, std::vector<History>* histories) {
  const Geometry& g = setup.geometry;
  round_rows(&n.keys, g.dtype, g.dim);
  round_rows(&n.values, g.dtype, g.dim);
  int batch = static_cast<int>(setup.slots.size());
  for (int b = 0; b < batch; b++) {
    std::vector<bf16> keys, values;
    std::vector<float> utilities;
    for (int layer = 0; layer < g.layers; layer++) {
      size_t row = static_cast<size_t>(layer * batch + b) * g.kv_heads, count = g.kv_heads;
      keys.insert(keys.end(), &n.keys[row * g.dim], &n.keys[row * g.dim] + count * g.dim);
      values.insert(values.end(), &n.values[row * g.dim], &n.values[row * g.dim] + count * g.dim);
      utilities.insert(utilities.end(), &n.utilities[row], &n.utilities[row] + count);
    }
    (*histories)[b].keys.push_back(keys);
    (*histories)[b].values.push_back(values);
    (*histories)[b].utilities.push_back(utilities);
  }
}

int expected_kept(const Setup& setup, const History& history, int list) {
  int count = 0, end = static_cast<int>(history.keys.size()) - setup.geometry.window;
  for (int s = 0; s < end; s++) count += history.utilities[s][list] >= kThreshold;
  return count;
}

// Kept counts, lengths, and that every page is in exactly one place.
void check_books(const Setup& setup, const std::vector<History>& histories, TestCache* cache) {
  const Geometry& g = setup.geometry;
  std::vector<int32_t> kept = cache->kept.read(), length = cache->length.read(), table = cache->table.read();
  std::vector<int32_t> free_pages = cache->free_pages.read(), oldest = cache->oldest.read();
  std::vector<int> uses(g.capacity, 0);
  bool good = true;
  for (size_t b = 0; b < setup.slots.size(); b++) {
    int tokens = static_cast<int>(histories[b].keys.size());
    good = good && length[setup.slots[b]] == tokens &&
           oldest[setup.slots[b]] == std::max(0, tokens - cache->state.ring_slots);
    for (int list = 0; list < g.layers * g.kv_heads; list++) {
      size_t index =
          static_cast<size_t>(cache->state.list(list / g.kv_heads, setup.slots[b], list % g.kv_heads));
      good = good && kept[index] == expected_kept(setup, histories[b], list);
      int pages = cache->state.ring_pages + (kept[index] + 63) / 64;
      for (int i = 0; i < pages; i++) uses[table[index * g.table_pages + i]]++;
    }
  }
  expect(good, setup.name + ": kept counts and lengths");
  good = good && uses == cache->references.read();
  int free_count = cache->free_count.read()[0];
  for (int i = 0; i < free_count; i++) uses[free_pages[i]]++;
  for (int use : uses) good = good && use == 1;
  expect(good, setup.name + ": every page in exactly one place, and known there");
}

struct Snapshot {
  std::vector<uint8_t> pool;
  std::vector<int32_t> table, kept, length, free_pages, free_count;
  std::vector<uint32_t> keep;

  explicit Snapshot(const TestCache& c)
      : pool(c.pool.read()),
        table(c.table.read()),
        kept(c.kept.read()),
        length(c.length.read()),
        free_pages(c.free_pages.read()),
        free_count(c.free_count.read()),
        keep(c.keep.read()) {}
  bool operator==(const Snapshot& o) const {
    return pool == o.pool && table == o.table && kept == o.kept && length == o.length &&
           free_pages == o.free_pages && free_count == o.free_count && keep == o.keep;
  }
};

// The fault of a key (0), value (1) or utility (2) that is not finite.
Fault bad_number(DType dtype, int layer, int what) {
  return Fault{kNonFiniteSite} << 56 | static_cast<Fault>(layer * 3 + what) << 32 | static_cast<Fault>(dtype);
}

bool exhausted(const TestCache& cache) { return cache.raised() >> 56 == kExhaustedSite; }

void run(const Setup& setup) {
  Engine engine(setup);
  for (int32_t slot : setup.slots)
    engine.cache().begin(slot, kThreshold, engine.stream());
  engine.capture();
  Random random(77);
  std::vector<History> histories(setup.slots.size());
  for (int step = 0; step < setup.steps; step++) {
    Numbers n = draw(setup, &random);
    std::vector<float> out = engine.step(n.q, n.keys, n.values, n.utilities);
    if (step % setup.compare_every == 0 || step + 3 > setup.steps) {
      double worst = compare(setup, histories, n, out);
      expect(worst <= 1, setup.name + " step " + std::to_string(step) + ": error over tolerance " +
                             std::to_string(worst));
    }
    remember(setup, n, &histories);
    if (step % 50 == 0) check_books(setup, histories, &engine.cache());
  }
  check_books(setup, histories, &engine.cache());
  expect(engine.cache().raised() == kNoFault, setup.name + ": no fault");

  // A bad number is reported with its layer, and nothing changes, however often the step is run.
  Snapshot before(engine.cache());
  Numbers n = draw(setup, &random), bad = n;
  size_t layer_rows = setup.slots.size() * setup.geometry.kv_heads;
  bad.values[(layer_rows + 1) * setup.geometry.dim + 7] = __float2bfloat16(INFINITY);
  for (int i = 0; i < 2; i++) engine.step(bad.q, bad.keys, bad.values, bad.utilities);
  expect(engine.cache().raised() == bad_number(setup.geometry.dtype, 1, 1), setup.name + ": bad value in layer 1");
  expect(before == Snapshot(engine.cache()), setup.name + ": nothing changes after a bad value");
  engine.cache().clear_fault();
  bad = n;
  bad.utilities[layer_rows * 2 + 1] = NAN;
  engine.step(bad.q, bad.keys, bad.values, bad.utilities);
  expect(engine.cache().raised() == bad_number(setup.geometry.dtype, 2, 2), setup.name + ": bad utility in layer 2");
  expect(before == Snapshot(engine.cache()), setup.name + ": nothing changes after a bad utility");
  engine.cache().clear_fault();

  // Two sequences go and come back; the others do not notice.
  for (size_t b = 0; b < 2; b++) {
    CHECK_CUDA(release_sequence(engine.cache().state, setup.slots[b], engine.stream()));
    engine.cache().begin(setup.slots[b], kThreshold, engine.stream());
    histories[b] = History();
  }
  for (int step = 0; step < 5; step++) {
    Numbers next = draw(setup, &random);
    std::vector<float> out = engine.step(next.q, next.keys, next.values, next.utilities);
    expect(compare(setup, histories, next, out) <= 1, setup.name + ": after sequences were replaced");
    remember(setup, next, &histories);
  }
  check_books(setup, histories, &engine.cache());
}

// A pool with exactly the pages for 64 kept pairs per list that keeps any, and `spare` more: the step that
// needs 4 more is refused as a whole, and goes through once there is room.
void exhaustion(int spare) {
  Setup setup;
  setup.name = "exhaustion";
  setup.geometry = {3, 2, 64, 8, 0, 3, 8, 0};
  setup.slots = {1, 2};
  setup.density = 0;
  int lists = 3 * 2 * 2, keeping = (lists + 2) / 3;
  setup.geometry.capacity =
      lists + keeping + 6 + spare;  // and a third sequence, which makes room when it goes
  Engine engine(setup);
  for (int32_t slot : {0, 1, 2})
    engine.cache().begin(slot, kThreshold, engine.stream());
  engine.capture();
  Random random(5);
  std::vector<History> histories(2);
  auto step = [&] {
    Numbers n = draw(setup, &random);
    std::vector<float> out = engine.step(n.q, n.keys, n.values, n.utilities);
    expect(compare(setup, histories, n, out) <= 1, setup.name + ": numbers");
    return n;
  };
  for (int i = 0; i < 64 + 8; i++) remember(setup, step(), &histories);
  expect(engine.cache().raised() == kNoFault, "exhaustion: an exact fit succeeds");
  expect(engine.cache().free_count.read()[0] == spare, "exhaustion: all other pages are used");
  Snapshot before(engine.cache());
  step();
  PoolShortage shortage = engine.cache().shortage.read()[0];
  expect(exhausted(engine.cache()) && shortage.needed == keeping && shortage.free == spare,
         "exhaustion: reported");
  CHECK_CUDA(release_sequence(engine.cache().state, 0, engine.stream()));
  CHECK_CUDA(cudaStreamSynchronize(engine.stream()));
  Snapshot released(engine.cache());
  step();
  expect(released == Snapshot(engine.cache()), "exhaustion: the failure stays until it is cleared");
  released.free_pages = before.free_pages;
  released.free_count = before.free_count;
  released.length = before.length;
  expect(released == before, "exhaustion: nothing has changed");
  engine.cache().clear_fault();
  for (int i = 0; i < 3; i++) remember(setup, step(), &histories);
  expect(engine.cache().raised() == kNoFault, "exhaustion: goes on with room");
  expect(engine.cache().free_count.read()[0] == 6 + spare - keeping, "exhaustion: pages taken");
}

// Sequences come, take steps in ever different company, and go, in a pool that is too small now and then;
// no attention. The books have to be right throughout.
void traffic(int rounds) {
  Setup setup;
  setup.name = "traffic";
  setup.geometry = {2, 2, 64, 8, 3, 6, 6, 60};
  const Geometry& g = setup.geometry;
  constexpr int kBatch = 2;
  TestCache cache(g, kBatch, 5);
  Random random(11);
  size_t rows = static_cast<size_t>(g.layers) * kBatch * g.kv_heads;
  DeviceArray<float> numbers(widened(random.normals(rows * g.dim)));
  DeviceArray<float> utilities(rows);
  DeviceArray<int32_t> slots(kBatch);
  NewPairs pairs = step_pairs(cache, g, kBatch, numbers.get(), numbers.get(), utilities.get());
  DecodeInsertParams insert{cache.state, cache.plan, pairs, cache.faults};
  std::vector<History> histories;  // of setup.slots, in that order
  std::vector<int32_t> idle = {0, 1, 2, 3, 4, 5};
  auto leave = [&](size_t i) {
    CHECK_CUDA(release_sequence(cache.state, setup.slots[i], nullptr));
    idle.push_back(setup.slots[i]);
    setup.slots.erase(setup.slots.begin() + static_cast<int64_t>(i));
    histories.erase(histories.begin() + static_cast<int64_t>(i));
  };
  auto one_of = [&] { return static_cast<size_t>(random.below(static_cast<int>(setup.slots.size()))); };
  int refused = 0, steps = 0;
  for (int round = 0; round < rounds; round++) {
    int free_pages = cache.free_count.read()[0];
    if (!idle.empty() && free_pages >= g.layers * g.kv_heads && random.below(20) == 0) {
      cache.begin(idle.back(), kThreshold, nullptr);
      setup.slots.push_back(idle.back());
      histories.emplace_back();
      idle.pop_back();
    }
    for (size_t i = setup.slots.size(); i-- > 0;)
      if (histories[i].keys.size() > 250 || random.below(500) == 0) leave(i);
    if (setup.slots.size() < kBatch) continue;
    size_t first = one_of(), second = one_of();
    if (second == first) second = (first + 1) % setup.slots.size();
    std::vector<float> drawn(rows);
    for (float& u : drawn) u = random.uniform() < 0.7 ? 0.9f : 0.1f;
    utilities.write(drawn);
    slots.write({setup.slots[first], setup.slots[second]});
    CHECK_CUDA(plan_step({cache.state, cache.plan, slots.get()}, nullptr));
    CHECK_CUDA(decode_insert(insert, nullptr));
    if (exhausted(cache)) {
      refused++;
      cache.clear_fault();
      leave(first);
      continue;
    }
    steps++;
    for (size_t b = 0; b < kBatch; b++) {
      History& history = histories[b == 0 ? first : second];
      history.keys.emplace_back();
      std::vector<float> mine;
      for (int list = 0; list < g.layers * g.kv_heads; list++)
        mine.push_back(drawn[(list / g.kv_heads * kBatch + b) * g.kv_heads + list % g.kv_heads]);
      history.utilities.push_back(mine);
    }
    if (round % 100 == 0) check_books(setup, histories, &cache);
  }
  check_books(setup, histories, &cache);
  printf("traffic: %d steps, %d refused\n", steps, refused);
  expect(refused > 10 && steps > rounds / 2, "traffic: some steps are refused, most are not");
}

}  // namespace

void steps_test(bool quick, DType dtype) {
  auto run_in = [&](Setup setup) {
    setup.name += dtype == DType::kFP8 ? " in fp8" : "";
    setup.geometry.dtype = dtype;
    run(setup);
  };
  if (quick) {
    run_in({"quick steps", {3, 2, 64, 8, 0, 4, 8, 96}, 4, 20, 0.5, {3, 0}, 4});
    run_in({"quick steps", {3, 2, 128, 8, 0, 4, 8, 96}, 4, 20, 0.5, {3, 0}, 4});
    return;
  }
  run_in({"steps 64, window 128", {3, 2, 64, 128, 0, 6, 16, 256}, 4, 420, 0.5, {5, 0, 3, 2}, 7});
  run_in({"steps 128, window 8", {3, 2, 128, 8, 0, 6, 16, 256}, 8, 230, 0.3, {1, 4, 3}, 5});
  run_in({"steps 64, window 1", {3, 2, 64, 1, 0, 3, 16, 128}, 2, 140, 0.5, {2, 1}, 3});
  run_in({"steps 64, window 50 and slack 30", {3, 2, 64, 50, 30, 3, 16, 128}, 1, 200, 0.5, {2, 1}, 3});
  run_in({"steps 128, group 16", {3, 3, 128, 64, 0, 3, 16, 128}, 16, 150, 0.5, {2, 1}, 20});
  if (dtype != DType::kBF16) return;
  for (int spare : {0, 1, 3}) exhaustion(spare);
  traffic(50000);
}

}  // namespace spkv_test
