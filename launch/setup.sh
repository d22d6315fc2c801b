#!/usr/bin/env bash
# Installs what Carry is built with, from the distribution's own packages:
# Debian 12, Ubuntu 22.04 and 24.04. Only what is missing; nothing to do costs
# nothing.
#
#   bash launch/setup.sh            to build and run
#   bash launch/setup.sh --checks   and what the checks of .ci/run use
set -euo pipefail

packages=(
  g++ cmake ninja-build pkg-config
  libabsl-dev          # Status, strings
  libcli11-dev         # command line
  libdnnl-dev          # oneDNN: matrix products
  libgtest-dev libgmock-dev
  libhwy-dev           # Highway: SIMD
  libopenmpi-dev openmpi-bin  # several ranks
  libprotobuf-dev protobuf-compiler
  libsentencepiece-dev
  libxxhash-dev        # checksums
  nlohmann-json3-dev
  xz-utils             # the quickstart compares with it
)
for argument in "$@"; do
  case "$argument" in
    --checks)
      # One version of the formatter: another one would format differently.
      packages+=(ccache clang-14 clang-format-14 clang-tidy-14 git shellcheck)
      # What stands in for cuBLAS in tests without a GPU.
      packages+=(libopenblas-dev)
      ;;
    *)
      echo "usage: bash launch/setup.sh [--checks]" >&2
      exit 2
      ;;
  esac
done

if ! command -v dpkg-query >/dev/null; then
  cat >&2 <<END
This is neither Debian nor Ubuntu. Install what these Debian packages hold,
then run the script with CARRY_SKIP_SETUP=1:
  ${packages[*]}
END
  [ -n "${CARRY_SKIP_SETUP:-}" ] && exit 0
  exit 1
fi
[ -n "${CARRY_SKIP_SETUP:-}" ] && exit 0

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Carry needs these packages; run this as root:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Installing with apt-get: ${missing[*]}"
run_apt() {
  # Quiet unless it fails. Another apt may be at work on a fresh machine.
  local log
  log=$(mktemp)
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    rm -f "$log"
    echo "setup: 'apt-get $*' failed; see above" >&2
    exit 1
  fi
  rm -f "$log"
}
run_apt update
run_apt install -y --no-install-recommends "${missing[@]}"
