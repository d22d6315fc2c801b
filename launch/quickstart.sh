#!/usr/bin/env bash
# From a fresh machine to a trained model and generated text.
#
#   bash launch/quickstart.sh [--set FIELD=VALUE ...]
#
# Trains recipes/quickstart.textproto on the headers under /usr/include.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }
# Bytes as MiB with two digits.
mib() { awk -v b="$1" 'BEGIN { printf "%.2f MiB", b / 1048576 }'; }

say "Building (the first time takes minutes)"
bash launch/setup.sh
cmake --preset release >/dev/null
cmake --build --preset release --target carry

carry=build/carry
out=runs/quickstart
recipe=recipes/quickstart.textproto
say "Training"
"$carry" train "$recipe" --out "$out" "$@"

held_out=$(mktemp)
trap 'rm -f "$held_out" "$held_out".*' EXIT
say "Held-out files: bits a byte, and what xz -9 needs for the same files"
"$carry" eval "$out" --files-to "$held_out" | tee "$held_out.eval"
bytes=0
packed=0
while IFS= read -r -d '' file; do
  size=$(stat -L -c %s "$file")
  small=$(xz -9 --stdout -- "$file" | wc -c)
  bytes=$((bytes + size))
  packed=$((packed + small))
done <"$held_out"
tr '\0' '\n' <"$held_out" >"$held_out.list"
joined=$(xargs -0 cat <"$held_out" | xz -9 --stdout | wc -c)
awk -v b="$bytes" -v p="$packed" -v j="$joined" 'BEGIN {
  printf "xz -9, file by file  %.3f bits/byte\n", 8 * p / b
  printf "xz -9, all as one    %.3f bits/byte\n", 8 * j / b }'
