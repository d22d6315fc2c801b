#!/usr/bin/env bash
# Rules of the house that no compiler checks. Prints every breach.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

mapfile -t files < <(git ls-files)
failed=0
report() {
  echo "$1: $2"
  failed=1
}

# Matches of a regular expression in the files of a list, one a line; nothing
# found is no error.
matches() {
  local pattern=$1
  shift
  grep -nEI -- "$pattern" "$@" || true
}

sources=()
last=
for file in "${files[@]}"; do
  case "$file" in
    */*.cc | */*.h | */*.cu | */*.cuh | */*.proto | */*.sh | */*.textproto)
      sources+=("$file")
      folder=${file%/*}
      if [ "$folder" != "$last" ] && [ ! -e "$folder/README.md" ]; then
        report "$folder" "has no README.md"
      fi
      last=$folder
      ;;
  esac
done

while IFS= read -r line; do
  report "$line" "includes are from the root of the repository"
done < <(matches '#include[^/]*"\.\./' "${sources[@]}")

while IFS= read -r line; do
  report "$line" "code that is to be done later, or a path of one machine"
done < <(matches '\b(TO''DO|FIX''ME|XX''X)\b|/wo''rk/|\.\./sha''red' \
  "${files[@]}" | grep -vE '^\.ci/run:[0-9]+:stand_in=\.\./sha''red/ptx$' || true)

for top in "${files[@]%%/*}"; do
  case "$top" in
    kernels | framework | parallel | launch | recipes | tests | .ci) ;;
    *) [ -f "$top" ] || report "$top" "is no layer (see README.md)" ;;
  esac
done

# Each layer may include itself and what lies left of it. The build enforces
# this for libraries; here it holds for every file.
allowed=recipes
for layer in kernels framework parallel launch; do
  allowed+="|$layer"
  for file in "${sources[@]}"; do
    case "$file" in
      "$layer"/*)
        while IFS= read -r line; do
          report "$file:$line" "$layer may not include this"
        done < <(matches '#include "(kernels|framework|parallel|launch|tests)/' \
          "$file" | grep -vE "#include \"($allowed)/" || true)
        ;;
    esac
  done
done

[ "$failed" -eq 0 ] && echo "${#files[@]} files follow the rules"
exit "$failed"
