// Everything that JavaScript can call: one line each. The same names stand in lib/native.ts.
#pragma once

#include <napi.h>

#define SPKV_EXPORTS(X)                               \
  X(openCpuDevice, open_cpu_device)                   \
  X(openCudaDevice, open_cuda_device)                 \
  X(describeDevice, describe_device)                  \
  X(freeMemory, free_memory)                          \
  X(closeDevice, close_device)                        \
  X(synchronize, synchronize)                         \
  X(beginSubmission, begin_submission)                \
  X(endSubmission, end_submission)                    \
  X(cancelSubmission, cancel_submission)              \
  X(busyNanoseconds, busy_nanoseconds)                \
  X(beginCapture, begin_capture)                      \
  X(endCapture, end_capture)                          \
  X(launch, launch)                                   \
  X(disposeCapture, dispose_capture)                  \
  X(createTensor, create_tensor)                      \
  X(mapTensor, map_tensor)                            \
  X(viewTensor, view_tensor)                          \
  X(writeTensor, write_tensor)                        \
  X(readTensor, read_tensor)                          \
  X(disposeTensor, dispose_tensor)                    \
  X(createPacked, create_packed)                      \
  X(communicatorId, communicator_id)                  \
  X(createCommunicator, create_communicator)          \
  X(connectCommunicator, connect_communicator)        \
  X(allReduce, all_reduce)                            \
  X(joinReductions, join_reductions)                  \
  X(communicatorFailure, communicator_failure)        \
  X(abortCommunicator, abort_communicator)            \
  X(disposeCommunicator, dispose_communicator)        \
  X(pageBytes, page_bytes)                            \
  X(createCache, create_cache)                        \
  X(disposeCache, dispose_cache)                      \
  X(poolStats, pool_stats)                            \
  X(createSequence, create_sequence)                  \
  X(releaseSequence, release_sequence)                \
  X(forkSequence, fork_sequence)                      \
  X(rewindSequence, rewind_sequence)                  \
  X(sequenceStats, sequence_stats)                    \
  X(forecastSequences, forecast_sequences)            \
  X(saveSequence, save_sequence)                      \
  X(restoreSequence, restore_sequence)                \
  X(poisonCache, poison_cache)                        \
  X(embedding, embedding)                             \
  X(embeddingBackward, embedding_backward)            \
  X(rmsNorm, rms_norm)                                \
  X(rmsNormBackward, rms_norm_backward)               \
  X(matmul, matmul)                                   \
  X(matmulInputGradient, matmul_input_gradient)       \
  X(matmulWeightGradient, matmul_weight_gradient)     \
  X(columnSums, column_sums)                          \
  X(packWeight, pack_weight)                          \
  X(rotaryAngles, rotary_angles)                      \
  X(rope, rope)                                       \
  X(siluMul, silu_mul)                                \
  X(siluMulBackward, silu_mul_backward)               \
  X(add, add)                                         \
  X(copy, copy)                                       \
  X(fill, fill)                                       \
  X(predictUtility, predict_utility)                  \
  X(predictUtilityBackward, predict_utility_backward) \
  X(countKept, count_kept)                            \
  X(preparePairs, prepare_pairs)                      \
  X(attention, attention)                             \
  X(insert, insert)                                   \
  X(positions, positions)                             \
  X(gatedAttention, gated_attention)                  \
  X(gatedAttentionBackward, gated_attention_backward) \
  X(sample, sample)                                   \
  X(recordPrompt, record_prompt)                      \
  X(logProbabilities, log_probabilities)              \
  X(crossEntropy, cross_entropy)                      \
  X(adamW, adam_w)                                    \
  X(squaredNorm, squared_norm)                        \
  X(clipFactor, clip_factor)                          \
  X(openGraph, open_graph)                            \
  X(runGraph, run_graph)                              \
  X(disposeGraph, dispose_graph)                      \
  X(openChannel, open_channel)                        \
  X(greetChannel, greet_channel)                      \
  X(exchange, exchange)                               \
  X(disposeChannel, dispose_channel)

namespace spkv {
namespace binding {

#define SPKV_DECLARE(name, function) Napi::Value function(const Napi::CallbackInfo& info);
SPKV_EXPORTS(SPKV_DECLARE)
#undef SPKV_DECLARE

}  // namespace binding
}  // namespace spkv
