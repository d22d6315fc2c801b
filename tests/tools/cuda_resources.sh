#!/usr/bin/env bash
# Registers, spills, stack and constant bank of every CUDA kernel on every
# architecture, as ptxas reports them, held to the recorded budget.
#
#   bash tests/tools/cuda_resources.sh [BUILD]           prints the table
#   bash tests/tools/cuda_resources.sh [BUILD] --check   and fails if a kernel
#       uses more than tests/tools/cuda_resources.txt says, or is not in it
#   bash tests/tools/cuda_resources.sh [BUILD] --update  records the table
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=build
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
  build=$1
  shift
fi
budget=tests/tools/cuda_resources.txt
shopt -s nullglob
reports=("$build"/kernels/cuda/*.ptxas)
[ ${#reports[@]} -gt 0 ] || {
  echo "$build/kernels/cuda holds no report of ptxas; build with nvcc" >&2
  exit 1
}

table() {
  printf '# kernel architecture registers spill_store_bytes spill_load_bytes\n'
  c++filt <"$1" | awk '
    /Compiling entry function/ {
      name = $0
      sub(/^[^\047]*\047/, "", name)
      arch = name
      sub(/.* for \047/, "", arch)
      sub(/\047.*/, "", arch)
      sub(/\047 for .*/, "", name)
      sub(/^void /, "", name)
      gsub(/carry::|cuda::|\(anonymous namespace\)::|\((int|bool)\)/, "", name)
      sub(/\([^()]*\)$/, "", name)
      gsub(/, /, ",", name)
    }
    /spill stores/ {
      for (i = 1; i < NF; ++i) {
        if ($(i + 2) == "spill" && $(i + 3) ~ /stores/) stores = $i
        if ($(i + 2) == "spill" && $(i + 3) ~ /loads/) loads = $i
      }
    }
    /Used [0-9]+ registers/ {
      for (i = 1; i < NF; ++i) if ($i == "Used") print name, arch, $(i + 1), stores, loads
    }' | LC_ALL=C sort
}
all=$(mktemp)
trap 'rm -f "$all"' EXIT
cat "${reports[@]}" >"$all"
now=$(table "$all")
case "${1:-}" in
  --update)
    printf '%s\n' "$now" >"$budget"
    ;;
  --check)
    printf '%s\n' "$now" | column -t
    printf '%s\n' "$now" | awk '
      NR == FNR { if ($1 != "#") { most[$1, $2] = $3; store[$1, $2] = $4; load[$1, $2] = $5 } next }
      $1 == "#" { next }
      !(($1, $2) in most) { print $1, $2, "is not in the budget"; bad = 1; next }
      $3 > most[$1, $2] || $4 > store[$1, $2] || $5 > load[$1, $2] {
        print $1, $2, "uses more than its budget of", most[$1, $2], store[$1, $2], load[$1, $2]
        bad = 1
      }
      END { exit bad }' "$budget" -
    ;;
  *) printf '%s\n' "$now" | column -t ;;
esac
