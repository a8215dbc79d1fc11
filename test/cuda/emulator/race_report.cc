#include "emulator/race_report.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <unordered_map>

#include "emulator/block.h"

namespace spkv_emulator {
namespace races {
namespace {

constexpr size_t kMostReports = 100;
constexpr int kExitCode = 66;

std::vector<std::string> reports;
std::set<std::string> known;

void end_process_with_error() {
  if (reports.empty()) return;
  fprintf(stderr, "CUDA emulator: %zu races\n", reports.size());
  fflush(nullptr);
  _exit(kExitCode);
}

std::string look_up(const void* code) {
  Dl_info module;
  if (!dladdr(code, &module) || !module.dli_fname) return "unknown code";
  // The address is that behind the call.
  auto offset = static_cast<const char*>(code) - static_cast<const char*>(module.dli_fbase) - 1;
  char command[4352];
  snprintf(command, sizeof(command), "addr2line -i -e '%s' %#tx 2>/dev/null", module.dli_fname, offset);
  std::string chain;
  FILE* lines = popen(command, "r");
  char line[4096];
  while (lines && fgets(line, sizeof(line), lines)) {
    line[strcspn(line, " \n")] = 0;
    const bool of_emulator = strstr(line, "/emulator/") && !strstr(line, "/emulator/test/");
    const char* file = of_emulator ? nullptr : strrchr(line, '/');
    if (file && line[0] == '/') chain += (chain.empty() ? "" : " < ") + std::string(file + 1);
  }
  if (lines) pclose(lines);
  snprintf(command, sizeof(command), "%s + %#tx", module.dli_fname, offset);
  return chain.empty() ? command : chain;
}

std::string agent_name(const Record& record) {
  std::string number = std::to_string(record.agent);
  switch (record.kind) {
    case Agent::kThread:
      return "thread " + number;
    case Agent::kBulkCopy:
      return "a bulk copy";
    case Agent::kCopy:
      return "a copy of 16 bytes";
    case Agent::kBulkRead:
    case Agent::kBulkResult:
      return "a bulk addition";
    case Agent::kMatrix:
      return "a matrix instruction";
  }
  return number;
}

const char* verb(const Record& record) {
  if (record.atomic()) return record.writes() ? "atomic write" : "atomic read";
  return record.writes() ? "write" : "read";
}

}  // namespace

std::string source_of(const void* code) {
  static std::unordered_map<const void*, std::string> looked_up;
  auto [at, is_new] = looked_up.try_emplace(code);
  if (is_new) at->second = look_up(code);
  return at->second;
}

void report_race(const Race& race) {
  if (reports.size() >= kMostReports) return;
  const Record &later = race.later, &earlier = race.earlier;
  std::string later_at = source_of(later.code), earlier_at = source_of(earlier.code);
  if (!known.insert(later_at + verb(later) + earlier_at + verb(earlier)).second) return;
  static const bool at_exit = (atexit(end_process_with_error), true);
  (void)at_exit;
  std::string where = race.shared
                          ? "shared memory, at " + std::to_string(static_cast<int64_t>(race.at) -
                                                                  reinterpret_cast<int64_t>(dynamic_shared()))
                          : "global memory";
  std::string text = "race in " + where + " (" + std::to_string(race.bytes) + " bytes)\n  " + verb(later) +
                     " by " + agent_name(later) + " of block " + std::to_string(later.block) + ": " +
                     later_at + "\n  is not ordered after the " + verb(earlier) + " by " +
                     agent_name(earlier) + " of block " + std::to_string(earlier.block);
  if (earlier.launch != later.launch)
    text += ", " + std::to_string(later.launch - earlier.launch) + " launches before";
  text += ": " + earlier_at;
  fprintf(stderr, "CUDA emulator: %s\n", text.c_str());
  reports.push_back(text);
}

std::vector<std::string> take_reports() {
  std::vector<std::string> taken;
  taken.swap(reports);
  known.clear();
  return taken;
}

}  // namespace races
}  // namespace spkv_emulator
