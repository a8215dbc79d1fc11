// How races are told: each pair of places in the sources once.
#pragma once

#include "emulator/race_shadow.h"

namespace spkv_emulator {
namespace races {

struct Race {
  uintptr_t at;  // of the later access
  size_t bytes;
  bool shared;
  Record later, earlier;
};

void report_race(const Race& race);

}  // namespace races
}  // namespace spkv_emulator
