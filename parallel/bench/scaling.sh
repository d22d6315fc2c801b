#!/usr/bin/env bash
# Two ranks of one thread beside one rank of one thread, in turn on the same
# machine, so that the ratio holds whatever else slows it down.
#
#   bash parallel/bench/scaling.sh [LENGTH] [REPEATS] [more --set ...]
#
# LENGTH tokens a sequence (default 131072) of recipes/million-token.textproto.
# A run makes 3 steps; the first, which allocates, does not count. Prints tokens
# a second of the faster of the others, for one rank and for two with each
# schedule, what of twice one rank that is, and memory; then the medians.
# Needs build/carry and mpirun; two cores that are free.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

length=${1:-131072}
repeats=${2:-3}
shift $(($# < 2 ? $# : 2))
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -c 8000000 /dev/urandom >"$work/data"

# run NAME RANKS SCHEDULE: tokens a second into $rate, memory into $memory.
run() {
  local out=$work/$1 launch=(taskset -c 0)
  [ "$2" -gt 1 ] && launch=(mpirun --bind-to core -n "$2")
  rm -rf "$out"
  "${launch[@]}" build/carry train recipes/million-token.textproto \
    --threads 1 --out "$out" --set "data.train=$work/data" \
    --set data.extensions= --set data.holdout_fraction=0 \
    --set training.steps=3 --set optimizer.warmup_steps=1 \
    --set "training.sequence_length=$length" --set "parallel.sequence=$2" \
    --set "parallel.schedule=$3" "${@:4}" >"$out.log" 2>&1 ||
    { cat "$out.log" >&2; exit 1; }
  rate=$(sed -n 's/.*"kind":"train","step":[23],.*"tokens_per_second":\([0-9.]*\).*/\1/p' \
    "$out/metrics.jsonl" | sort -g | tail -n 1)
  memory=$(sed -n 's/.*tensors of \([^ ]* [^ ]*\) .*/\1/p' "$out/train.log")
}

for ((i = 0; i < repeats; ++i)); do
  run one 1 WAVEFRONT "$@"
  one=$rate
  printf 'one rank            %9.0f tok/s  %s\n' "$one" "$memory"
  for schedule in WAVEFRONT PREFIX; do
    run "$schedule" 2 "$schedule" "$@"
    share=$(awk "BEGIN { printf \"%.3f\", $rate / (2 * $one) }")
    echo "$share" >>"$work/$schedule.shares"
    printf 'two, %-9s      %9.0f tok/s  %s a rank; %s of twice one\n' \
      "$schedule" "$rate" "$memory" "$share"
  done
done
for schedule in WAVEFRONT PREFIX; do
  printf '%-9s median %s of twice one rank, over %d pairs at %d tokens\n' \
    "$schedule" "$(sort -g "$work/$schedule.shares" |
      awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }')" \
    "$repeats" "$length"
done
