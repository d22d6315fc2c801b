#!/usr/bin/env bash
# Syntax of every shell script, and shellcheck where it is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

scripts=()
while IFS= read -r -d '' file; do
  if head -c 64 "$file" | head -n 1 | grep -q '^#!.*sh$'; then
    scripts+=("$file")
  fi
done < <(find .ci launch parallel recipes tests -type f -print0)
[ "${#scripts[@]}" -gt 0 ] || { echo "found no scripts" >&2; exit 1; }

for script in "${scripts[@]}"; do
  bash -n "$script"
done
if command -v shellcheck >/dev/null; then
  shellcheck -x "${scripts[@]}"
fi
echo "${#scripts[@]} scripts are well formed"
