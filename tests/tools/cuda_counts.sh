#!/usr/bin/env bash
# PTX instructions, ex2 among them, and bytes of global memory that every CUDA
# kernel executes for an element of its op, held to the recorded budget. An
# element is a (t, d, n) of the scan, a (t, d) of the convolution, else a number
# of the op's largest array. Needs a runtime that interprets PTX and writes what
# it counted to the file PTX_STATS; on any other one: exit status 77.
#
#   bash tests/tools/cuda_counts.sh [BUILD]           prints the table
#   bash tests/tools/cuda_counts.sh [BUILD] --check   and fails if a kernel takes
#       over 1% more than tests/tools/cuda_counts.txt says, or is not in it
#   bash tests/tools/cuda_counts.sh [BUILD] --update  records the table
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=build
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
  build=$1
  shift
fi
budget=tests/tools/cuda_counts.txt
program=$build/tests/gpu/gpu_kernel_counts
[ -x "$program" ] || {
  echo "$program is missing; build the target gpu_tests" >&2
  exit 1
}
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT

ops=(scan scan_split scan_summary conv rms_norm cross_entropy adamw embedding
  checksum)
for op in "${ops[@]}"; do
  status=0
  elements=$(PTX_STATS=$room/$op "$program" "$op") || status=$?
  [ "$status" -eq 0 ] || exit "$status"
  [ -s "$room/$op" ] || {
    echo "SKIPPED: the CUDA runtime does not count instructions"
    exit 77
  }
  awk -v op="$op" -v elements="$elements" '
    /^kernel / {
      name = $0
      sub(/^kernel (void )?/, "", name)
      gsub(/carry::|cuda::|\(anonymous namespace\)::|\((int|bool)\)/, "", name)
      sub(/\([^()]*\)$/, "", name)
      gsub(/, /, ",", name)
    }
    /^  launches / { for (i = 1; i < NF; ++i) if ($i == "instructions") all = $(i + 1) }
    /^  ex2 / {
      for (i = 1; i < NF; ++i) {
        if ($i == "ex2") ex2 = $(i + 1)
        if ($i == "ld_global_bytes") read = $(i + 1)
        if ($i == "st_global_bytes") written = $(i + 1)
      }
      printf "%s %s %.3f %.3f %.3f\n", op, name, all / elements, ex2 / elements,
        (read + written) / elements
    }' "$room/$op"
done >"$room/table"
now=$(printf '# op kernel instructions ex2 bytes\n' && cat "$room/table")
case "${1:-}" in
  --update)
    printf '%s\n' "$now" >"$budget"
    ;;
  --check)
    printf '%s\n' "$now" | column -t
    printf '%s\n' "$now" | awk '
      function over(value, most) { return value > most * 1.01 + 0.001 }
      NR == FNR { if ($1 != "#") { all[$1, $2] = $3; ex2[$1, $2] = $4; bytes[$1, $2] = $5 } next }
      $1 == "#" { next }
      !(($1, $2) in all) { print $1, $2, "is not in the budget"; bad = 1; next }
      over($3, all[$1, $2]) || over($4, ex2[$1, $2]) || over($5, bytes[$1, $2]) {
        print $1, $2, "takes more than its budget of", all[$1, $2], ex2[$1, $2], bytes[$1, $2]
        bad = 1
      }
      END { exit bad }' "$budget" -
    ;;
  *) printf '%s\n' "$now" | column -t ;;
esac
