// What an agent has seen of others: everything up to an epoch of each.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "emulator/races.h"

namespace spkv_emulator {
namespace races {

struct Clock {
  uint32_t block = 0;                   // whose agents these are
  uint32_t launches = 0;                // all of the launches up to this one are seen
  std::vector<uint32_t> epochs;         // by agent; those behind are at 0
  std::map<uint32_t, ClockRef> blocks;  // of other blocks of the launch, what is seen of them

  uint32_t of(uint32_t agent) const { return agent < epochs.size() ? epochs[agent] : 0; }

  void include(uint32_t agent, uint32_t epoch) {
    if (agent >= epochs.size()) epochs.resize(agent + 1);
    epochs[agent] = std::max(epochs[agent], epoch);
  }

  void include(const ClockRef& other) {
    launches = std::max(launches, other->launches);
    if (other->block == block) {
      if (epochs.size() < other->epochs.size()) epochs.resize(other->epochs.size());
      for (size_t i = 0; i < other->epochs.size(); i++) epochs[i] = std::max(epochs[i], other->epochs[i]);
    } else {
      include_block(other);
    }
    for (const auto& [number, clock] : other->blocks) {
      if (number == block) {
        include(clock);
      } else {
        include_block(clock);
      }
    }
  }

 private:
  void include_block(const ClockRef& other) {
    ClockRef& mine = blocks[other->block];
    if (mine == other) return;
    if (mine) {
      auto both = std::make_shared<Clock>(*mine);
      both->include_same(*other);
      mine = both;
    } else {
      mine = other;
    }
  }
  void include_same(const Clock& other) {
    if (epochs.size() < other.epochs.size()) epochs.resize(other.epochs.size());
    for (size_t i = 0; i < other.epochs.size(); i++) epochs[i] = std::max(epochs[i], other.epochs[i]);
  }
};

}  // namespace races
}  // namespace spkv_emulator
