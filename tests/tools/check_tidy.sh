#!/usr/bin/env bash
# clang-tidy over the sources that a build compiles, against .clang-tidy.
#
#   bash tests/tools/check_tidy.sh [BUILD_FOLDER]
#
# Left out: files that Highway compiles once for each instruction set, which
# take minutes each and hold little else; generated code; tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=${1:-build}
tidy=$(command -v clang-tidy-14 || true)
if [ -z "$tidy" ]; then
  echo "clang-tidy-14 is missing; bash launch/setup.sh --checks" >&2
  exit 1
fi
[ -e "$build/compile_commands.json" ] || {
  echo "$build/compile_commands.json is missing; configure first" >&2
  exit 1
}
mapfile -t sources < <(git ls-files 'recipes/*.cc' 'kernels/*.cc' \
  'framework/*.cc' 'parallel/*.cc' 'launch/*.cc' |
  xargs grep -L 'foreach_target.h' |
  while IFS= read -r file; do
    # Only what this build compiles.
    grep -qF "/$file\"" "$build/compile_commands.json" && echo "$file"
  done)
printf '%s\0' "${sources[@]}" |
  xargs -0 -n 1 -P "$(nproc)" "$tidy" --quiet -p "$build" 2>/dev/null
echo "clang-tidy finds nothing in ${#sources[@]} files"
