// What the processes of a data-parallel run exchange: sums over all of them. Each process is a rank with a
// device of its own.
//
// Sums run on a stream beside the device's, so that they overlap with what is enqueued meanwhile:
//
//   device's stream  ── gradients of layer 3 ── of layer 2 ── of layer 1 ── join ── update
//                              └ all_reduce                                  │
//   the other stream           └───── sum over the ranks ────────────────────┘
#pragma once

#include <array>
#include <memory>

#include "core/status.h"
#include "core/view.h"

namespace spkv {

// What the ranks of one run have in common: made by one of them, and handed to the others.
using CommunicatorId = std::array<char, 128>;

struct CommunicatorOptions {
  CommunicatorId id = {};
  int rank = 0;
  int size = 1;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  // --- On the stream's thread, in the order in which they were enqueued; all ranks make the same calls.

  // Waits until all ranks have come.
  virtual Status connect() = 0;
  // Begins to replace x [N] f32 by its sum over all ranks, as it is when what was enqueued before has run.
  // `storage`, the memory of x, is held until `join`.
  virtual Status all_reduce(const View& x, std::shared_ptr<void> storage) = 0;
  // What is enqueued behind it sees the sums.
  virtual Status join() = 0;

  // --- On any thread.

  // What has gone wrong with sums that are under way, if anything has.
  virtual Status failure() = 0;
  // Gives up: what waits for other ranks ends, with arbitrary sums.
  virtual void abort() = 0;
};

}  // namespace spkv
