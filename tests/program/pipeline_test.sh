#!/usr/bin/env bash
# A pipeline's processes write the files of one process; its checkpoints are gone on from by any grid.
# Usage: tests/program/pipeline_test.sh PROGRAM [DEVICE]
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"
train=(train --data "$work/text.txt" --config "$work/config.json" --seq 32 --batch 2 --accumulation 4 --steps 6
  --eval-every 3 --eval-windows 5 --save-every 3 --prompt fox --threads 1)

# run OUT RANKS ARGUMENTS...
run() {
  local out=$1 ranks=$2
  shift 2
  if ((ranks == 1)); then
    "$mtpx" "${train[@]}" --out "$work/$out" "$@" >"$work/log" 2>&1 || fail "$out: exit code $?: $(cat "$work/log")"
  else
    "$mtpx" launch -n "$ranks" -- "${train[@]}" --out "$work/$out" "$@" >"$work/log" 2>&1 ||
      fail "$out: exit code $?: $(cat "$work/log")"
  fi
}
# same OUT: its model and figures are those of one process.
same() {
  local file
  for file in model.safetensors config.json metrics.jsonl; do
    cmp "$work/one/$file" "$work/$1/$file" || fail "$1: another $file than one process writes"
  done
}
run one 1
run two 2 --layout 'Et|tmmL'
same two
run four 4 --layout 'Ett|mmL'  # two copies of it
same four

# From the checkpoint behind step 3 on: one process with the pipeline's, the pipeline with that of one process.
for from in one two; do
  cp -r "$work/$from" "$work/resumed"
  rm -r "$work"/resumed/checkpoints/*6
  if [[ $from == one ]]; then run resumed 2 --resume auto --layout 'Ett|mmL'; else run resumed 1 --resume auto; fi
  same resumed
  rm -r "$work/resumed"
done
# A model that is there, with depths of another number, which are then left out.
run init_one 1 --init "$work/one" --depth 1 --export-no-mtp
run init_two 2 --init "$work/one" --depth 1 --export-no-mtp --layout 'Et|tmL'
for file in model.safetensors config.json metrics.jsonl; do
  cmp "$work/init_one/$file" "$work/init_two/$file" || fail "--init: another $file"
done

expect 2 'mtpx: [grid] 1 ranks are no copies of a pipeline of 2 stages' "${train[@]}" --out "$work/no" --layout 'Et|tmmL'
expect 2 'mtpx: [layout] "Et|tm", place 6: it ends with L, the output head' "${train[@]}" --out "$work/no" --layout 'Et|tm'
[[ ! -e $work/no ]] || fail "a layout that cannot be left $(ls -a "$work/no")"
exit $((failures > 0))
