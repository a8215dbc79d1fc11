// What the index tensors and the logits of a step must hold: the same checks and the same words on every
// device.
#pragma once

#include <cstdint>

#include "core/status.h"

namespace spkv {

// offsets[b] to offsets[b + 1] are the tokens of document b: they rise from 0 to `tokens`.
Status check_offsets(const int32_t* offsets, int64_t documents, int64_t tokens);

// `target` of row t has no logit among `vocabulary`.
Status target_out_of_range(int64_t t, int32_t target, int64_t vocabulary);

// Targets lie `stride` apart; one below 0 counts as none.
Status check_targets(const int32_t* targets, int64_t stride, int64_t tokens, int64_t vocabulary);

// logits[row, column] is `logit`.
Status logit_not_finite(int64_t row, int64_t column, float logit);

}  // namespace spkv
