#!/usr/bin/env bash
# The program as a build without MPI makes it: it needs no library of MPI, trains by `mtpx launch` to the same bytes, and says
# what is missing where mpirun starts it.
# Usage: tests/program/without_mpi_test.sh PROGRAM PROGRAM_WITHOUT_MPI
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh" "$1"
without=$2
train=(train --data "$work/text.txt" --config "$work/config.json" --batch 1 --seq 32 --accumulation 2 --steps 3 --device cpu --threads 1)

[[ $(ldd "$mtpx") == *libmpi* ]] || fail "the other program needs no MPI either: this test tells nothing"
[[ $(ldd "$without") != *lib@(mpi|nccl)* ]] || fail "needs a library of MPI or NCCL"
"$mtpx" "${train[@]}" --out "$work/with" >"$work/log" 2>&1 || fail "with MPI: exit code $?: $(cat "$work/log")"
"$without" launch -n 2 -- "${train[@]}" --out "$work/without" >"$work/log" 2>&1 || fail "without MPI: exit code $?: $(cat "$work/log")"
for file in model.safetensors metrics.jsonl run.json; do
  cmp "$work/with/$file" "$work/without/$file" || fail "$file is another one"
done
status=0
OMPI_COMM_WORLD_SIZE=2 "$without" "${train[@]}" --out "$work/mpi" >"$work/log" 2>&1 || status=$?
[[ $status == 2 ]] && grep -q 'mpirun started 2 processes, and this build has no MPI' "$work/log" ||
  fail "started by mpirun: exit code $status: $(cat "$work/log")"
[[ ! -e $work/mpi ]] || fail "started by mpirun: wrote $(ls -a "$work/mpi")"

[[ $failures == 0 ]] && echo "without MPI: all checks passed"
exit $((failures > 0))
