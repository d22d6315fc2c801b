#!/usr/bin/env bash
# nccl_ranks.sh PROGRAM N        all cases on N ranks
# nccl_ranks.sh PROGRAM faults   what a rank says, and how soon, when another
#                                misbehaves
# Status 77 and one line where there is no GPU, or no GPU a rank.
set -uo pipefail
program=$1
what=$2

"$program" --probe || exit

ranks() {
  local n=$1
  shift
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
    timeout -k 5 500 mpirun --oversubscribe --bind-to none \
    -x LD_LIBRARY_PATH -n "$n" "$program" "$@" </dev/null
}

if [ "$what" != faults ]; then
  ranks "$what"
  exit
fi

failed=0
# fault NAME STATUS TEXT: ends within 30 s, start and all, with this status (or,
# for "other", any but 0 and 2) and says this.
fault() {
  local name=$1 want=$2 text=$3 begin=$SECONDS out status
  out=$(ranks 2 "--fault=$name" 2>&1)
  status=$?
  if [ "$status" -eq 77 ]; then
    grep -m 1 SKIPPED <<<"$out"
    exit 77
  fi
  if [ "$want" = other ]; then
    [ "$status" -ne 0 ] && [ "$status" -ne 2 ] && want=$status
  fi
  if [ "$status" -ne "$want" ] || [ $((SECONDS - begin)) -gt 30 ] ||
    ! grep -qF -- "$text" <<<"$out"; then
    echo "FAILED: $name: status $status after $((SECONDS - begin)) s, wanted" \
      "$want and: $text"
    echo "$out"
    failed=1
  else
    echo "ok: $name, $((SECONDS - begin)) s"
  fi
}

fault silent 3 "on_failure: DEADLINE_EXCEEDED: rank 0 receiving from rank 1 in \
carry, layer 3, chunk 17, forward: nothing came for 2 s"
fault silent-polled 3 "Wait: DEADLINE_EXCEEDED: rank 0 receiving from rank 1 in \
carry, layer 3, chunk 17, backward: nothing came for 2 s"
fault silent-polled 3 "every call says so"
fault silent-collective 3 "on_failure: DEADLINE_EXCEEDED: rank 0 of 2 in \
gradient reduction, layer 2, backward: nothing came for 2 s"
fault absent 3 "on_failure: DEADLINE_EXCEEDED: rank 0 receiving from rank 1 in \
connecting, forward: nothing came for 2 s"
fault slow 0 ""
fault dying other "signal 9"
exit $failed
