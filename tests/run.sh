#!/usr/bin/env bash
# Sets up, builds and runs the whole test suite; ends with ctest's summary.
#
#   bash tests/run.sh           release build
#   bash tests/run.sh --asan    with address and undefined-behaviour sanitizers
#   bash tests/run.sh --tsan    with the thread sanitizer
#   bash tests/run.sh --gpu     the GPU tests on the CUDA runtime that is there
#                               or that LD_LIBRARY_PATH names, after a table
#                               of where a step's time goes if there is a GPU
#   bash tests/run.sh -R NAME   what follows goes to ctest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=release
gpu=0
while [ $# -gt 0 ]; do
  case "$1" in
    --asan) preset=asan ;;
    --tsan) preset=tsan ;;
    --gpu) gpu=1 ;;
    -h | --help)
      sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) break ;;
  esac
  shift
done

bash launch/setup.sh
cmake --preset "$preset" >/dev/null
if [ "$gpu" -eq 1 ]; then
  cmake --build --preset "$preset" --target gpu_tests
  # On a GPU itself also what its time goes to; stand-ins' times say nothing.
  if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
    cmake --build --preset "$preset" --target carry
    for precision in BF16 FP32; do
      build/carry bench recipes/mamba-130m.textproto --set device=CUDA \
        --set "training.precision=$precision" --set training.batch_size=1 \
        --set training.sequence_length=16384 --set training.chunk_length=4096
    done
  fi
  exec ctest --preset "$preset" -L gpu "$@"
fi
cmake --build --preset "$preset"
ctest --preset "$preset" "$@"
