// Sampling: the next token of each sequence from its logits, on the device, reproducibly.
//
// Per row, among the tokens that its mask allows, in this order:
//   1. penalties, from the row's history: a logit of a token seen before (prompt or output) is divided by
//      `repetition` if positive, multiplied if negative (Keskar et al., arXiv 1909.05858); then
//      `frequency` times its count in the output, and `presence` if that count is not 0, are subtracted;
//   2. temperature 0: the largest logit, the lowest id among equals. Otherwise logits / temperature;
//   3. top-k: only the k largest (0: all);
//   4. top-p: of these, in falling order, the shortest run whose probability reaches p, at least one (1:
//   all);
//   5. min-p: of these, those with at least min-p times the probability of the largest (0: all);
//   6. one draw from the softmax of what is left, by inverse transform in falling order (ties by id), with a
//      uniform number that is a function of (seed, position) alone: the same seed gives the same text
//      whatever else is in the batch.
// The chosen token is added to the history. A logit that is not finite, allowed or not, is kNonFinite; a
// setting outside its range, penalties without a history, or a mask that allows nothing are kInvalidArgument.
// A step that fails leaves the history as it was.
#pragma once

#include "core/stream.h"
#include "core/view.h"

namespace spkv {

// Columns of SampleParams::settings.
enum SamplingColumn : int {
  kTemperature = 0,
  kTopK = 1,
  kTopP = 2,
  kMinP = 3,
  kRepetition = 4,
  kFrequency = 5,
  kPresence = 6,
  kSamplingColumns = 7,
};

struct SampleParams {
  View out;        // [B] i32
  View logits;     // [B, V] f32
  View settings;   // [B, 7] f32, see SamplingColumn
  View seeds;      // [B, 2] i32, low and high half
  View positions;  // [B] i32, the position of the token whose successor is drawn
  View history;    // [B, V] i32, or absent when no row has penalties: bit 0 says that the prompt had the
                   // token, the rest counts it in the output. Updated.
  View mask;  // [B, ceil(V / 32)] i32, or absent when all rows allow all tokens: bit v % 32 of word v / 32
              // says that token v may be drawn. Bits past V mean nothing.
};

// Adds the tokens of a prompt to one row of a history: history[ids[i]] |= 1.
struct RecordPromptParams {
  View history;  // [V] i32
  View ids;      // [T] i32
};

}  // namespace spkv
