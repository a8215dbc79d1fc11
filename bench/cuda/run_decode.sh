#!/bin/sh
# Builds, checks and times the CUDA decode path on one GPU; then run peer_decode.py. Usage: run_decode.sh OUTPUT_FOLDER
# [SECONDS for each part]. From the root of the repository; needs nvcc. TEST_ONLY=1 leaves the timing out.
out=$1
limit=${2:-120}
build=${BUILD:-build-cuda-decode}
flags="-std=c++17 -O3 -lineinfo --expt-relaxed-constexpr -gencode=arch=compute_90a,code=sm_90a -Inative -Itest/cuda"
mkdir -p "$build"
compile() { nvcc $flags -Xptxas -v -c "$1" -o "$build/$(basename "$1" .cu).o" 2>&1 | sed "s|^|$1: |"; }
for source in native/cuda/*.cu test/cuda/*.cu bench/cuda/*.cu; do compile "$source" & done > "$build/log"
wait
grep -E "error|warning" "$build/log"
grep "bytes stack frame" "$build/log" | grep -v "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
library=""
for source in native/cuda/*.cu; do library="$library $build/$(basename "$source" .cu).o"; done
nvcc $flags -o "$build/decode_test" "$build/decode_test.o" "$build/steps_test.o" $library || exit 1
nvcc $flags -o "$build/decode_bench" "$build/decode_bench.o" $library || exit 1
timeout "$limit" "$build/decode_test" || exit 1
[ -n "$TEST_ONLY" ] || timeout "$limit" "$build/decode_bench" "$out"
