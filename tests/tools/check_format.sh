#!/usr/bin/env bash
# clang-format over every C++ source. `--fix` rewrites them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Another version would format differently.
format=$(command -v clang-format-14 || true)
if [ -z "$format" ]; then
  echo "clang-format-14 is missing; bash launch/setup.sh --checks" >&2
  exit 1
fi
mode=(--dry-run --Werror)
[ "${1:-}" = --fix ] && mode=(-i)
git ls-files -z '*.cc' '*.h' '*.cu' '*.cuh' |
  xargs -0 -n 16 -P "$(nproc)" "$format" "${mode[@]}"
echo "C++ sources are formatted"
