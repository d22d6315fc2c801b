#!/usr/bin/env bash
# From a fresh machine to a trained model and generated text.
#
#   bash launch/quickstart.sh [--set FIELD=VALUE ...]
#
# Trains recipes/quickstart.textproto on the headers under /usr/include. A run
# that was interrupted goes on; one that is done is not trained again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }
# bits_per_byte BYTES_PACKED BYTES
bits_per_byte() { awk -v p="$1" -v b="$2" 'BEGIN { printf "%.3f", 8 * p / b }'; }

say "Setting up and building (the first time takes minutes)"
bash launch/setup.sh
cmake --preset release >/dev/null
cmake --build --preset release --target carry

carry=build/carry
run=runs/quickstart
recipe=recipes/quickstart.textproto
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A finished run of another recipe, such as an older version's, is no use.
"$carry" inspect "$recipe" "$@" >"$work/recipe"
if [ -e "$run/inspected" ] && ! cmp -s "$work/recipe" "$run/inspected"; then
  rm -rf "$run"
fi
mkdir -p "$run"
cp "$work/recipe" "$run/inspected"

say "Training a byte-level Mamba on the headers under /usr/include"
begin=$SECONDS
"$carry" train "$recipe" --out "$run" --resume "$@"
echo "training took $((SECONDS - begin)) s in this run"

say "Files that it has not seen"
"$carry" eval "$run" --max-tokens 1048576 --files-to "$work/files" \
  >"$work/eval"
cat "$work/eval"
bytes=0 packed=0 longest='' longest_size=0
while IFS= read -r -d '' file; do
  size=$(stat -L -c %s -- "$file")
  bytes=$((bytes + size))
  packed=$((packed + $(xz -9 --stdout -- "$file" | wc -c)))
  # Long, but read in seconds.
  if [ "$size" -gt "$longest_size" ] && [ "$size" -le 524288 ]; then
    longest=$file longest_size=$size
  fi
done <"$work/files"
together=$(xargs -0 cat -- <"$work/files" | xz -9 --stdout | wc -c)
cat <<END

the same $bytes bytes:
  this model, each file from its start   $(awk '/^bits\/byte/ { printf "%.3f", $2 }' "$work/eval") bits/byte
  xz -9, each file by itself             $(bits_per_byte "$packed" "$bytes") bits/byte
  xz -9, all files as one                $(bits_per_byte "$together" "$bytes") bits/byte
END

say "One long file, the carry kept or taken away: the loss falls with context"
echo "$longest"
"$carry" eval "$run" "$longest" --reset-every 4,16,64,256,1024,4096,16384 |
  sed '1,/^$/d'

say "400 bytes of its own"
prompt='#ifndef '
printf '%s' "$prompt"
"$carry" generate "$run" --prompt "$prompt" --tokens 400 --temperature 0.8 \
  --top-p 0.95 --seed 1
echo

checkpoints=("$run"/checkpoints/step-*)
cat <<END

== Where things are
checkpoint   ${checkpoints[-1]} (Hugging Face's
             MambaForCausalLM loads this folder)
metrics      $run/metrics.jsonl, and for TensorBoard: tensorboard --logdir runs
log          $run/train.log
recipe       $run/recipe.textproto, with every default

== What to try next
$carry generate $run --prompt 'static inline int ' --tokens 400
$carry train $recipe --set 'data.train=[YOUR_FOLDER]' \\
    --set data.extensions= --out runs/mine
$carry inspect recipes/million-token.textproto
$carry train --help
END
