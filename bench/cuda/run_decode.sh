#!/bin/sh
# Builds, checks and times the CUDA decode path on one GPU of compute capability 9.0; then run peer_decode.py.
# Usage, from the root of the repository: run_decode.sh OUTPUT_FOLDER [SECONDS for each part]. TEST_ONLY=1 leaves the
# timing out, BUILD names another folder for what is built.
set -e
out=$1
limit=${2:-120}
build=${BUILD:-build-cuda}
cmake -S . -B "$build" -DSPKV_CUDA_ARCHITECTURES=90a-real
cmake --build "$build" --target decode_test decode_bench -j
timeout "$limit" "$build/decode_test"
[ -n "$TEST_ONLY" ] || timeout "$limit" "$build/decode_bench" "$out"
