#!/usr/bin/env bash
# nvcc, with the report of ptxas on each kernel's resources kept beside the
# object (OBJECT.ptxas) instead of shown; all of it is shown if nvcc fails.
#
#   bash compile.sh OBJECT NVCC ARGUMENTS...
set -euo pipefail
object=$1
shift
if ! "$@" -o "$object" >"$object.ptxas" 2>&1; then
  cat "$object.ptxas" >&2
  exit 1
fi
