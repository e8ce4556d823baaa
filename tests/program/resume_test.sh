#!/usr/bin/env bash
# Runs that cannot be lost: whatever ends a training, it goes on to the bytes of one that was not interrupted.
# Usage: tests/program/resume_test.sh PROGRAM [DEVICE]
# FAULTS=FILE: the library of tests/support/file_faults.cpp, for faults inside a save
# KILLS=N: random moments (default 2)   EVERY=N: each N-th call on a file of the run (default 151)   FIRST=N: from the N-th
# on (default: any of the first EVERY)   KINDS: of faults
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"
kills=${KILLS:-2} every=${EVERY:-151} faults=${FAULTS:-} kinds=${KINDS:-kill ENOSPC EIO short}
train=(train --config "$work/config.json" --data "$work/text.txt" --seq 32 --eval-every 20 --eval-windows 2 --batch 2)

# same NAME A B: the model and the metrics of two runs are equal, byte for byte.
same() {
  local file
  for file in model.safetensors config.json metrics.jsonl; do
    cmp "$2/$file" "$3/$file" || fail "$1: $file is not that of the run that was not interrupted"
  done
}
# killed NAME CODE SIGNAL SECONDS ARGUMENTS...: runs the program and sends it the signal after so long; CODE: what it
# has to end with if the signal came in time.
killed() {
  local name=$1 code=$2 signal=$3 seconds=$4 status=0 process
  shift 4
  "$mtpx" "$@" >"$work/log" 2>&1 &
  process=$!
  sleep "$seconds"
  kill "-$signal" "$process" 2>/dev/null || true
  wait "$process" 2>/dev/null || status=$?
  [[ $status == "$code" || $status == 0 ]] || fail "$name: exit code $status instead of $code: $(tail -n 1 "$work/log")"
}
moment() { printf '0.%03d' $((RANDOM % 1000)); }

"$mtpx" "${train[@]}" --steps 60 --save-every 5 --out "$work/whole" >"$work/log"
grep -q 'step-00000060' "$work/whole/checkpoints/latest" || fail "latest: $(cat "$work/whole/checkpoints/latest")"
[[ $(ls "$work/whole/checkpoints") == $'latest\nstep-00000055\nstep-00000060' ]] || fail "kept: $(ls "$work/whole/checkpoints")"

# kill -9 at random moments, twice a run.
for ((i = 0; i < kills; ++i)); do
  out=$work/killed
  rm -rf "$out"
  for j in 1 2; do killed "kill $i.$j" 137 KILL "$(moment)" "${train[@]}" --steps 60 --save-every 5 --resume auto --out "$out"; done
  "$mtpx" "${train[@]}" --steps 60 --save-every 5 --resume auto --out "$out" >"$work/log" || fail "kill $i: cannot go on: $(tail -n 1 "$work/log")"
  same "kill -9, $i" "$work/whole" "$out"
done
[[ -z $(find "$work/killed" -name '*.tmp-*') ]] || fail "left behind: $(find "$work/killed" -name '*.tmp-*')"

# The end of the process at each call on the files of a save, and each call that fails.
if [[ -n $faults ]]; then
  "$mtpx" "${train[@]}" --steps 12 --save-every 4 --keep-last 1 --out "$work/short" >/dev/null
  # fault CALL WHAT: a run in which this happens at that call; its exit code is in `status`.
  fault() {
    status=0
    FAULT_PATH=$work/fault FAULT_AT=$1 FAULT_DO=$2 LD_PRELOAD=$faults "$mtpx" "${train[@]}" --steps 12 --save-every 4 \
      --keep-last 1 --resume auto --out "$work/fault" >"$work/log" 2>&1 &
    wait $! 2>/dev/null || status=$?
  }
  FAULT_LOG=$work/calls fault 0 none
  total=$(wc -l <"$work/calls")
  # The order of a save: a file is flushed behind its last write, then renamed, then its folder is flushed before anything else is
  # renamed; a checkpoint's folder, the rows behind which it goes on, its new name, and only then `latest`.
  awk '
    function bad(what) { print NR ": " what ": " $0; wrong = 1 }
    function folder(path) { sub(/\/[^\/]*$/, "", path); return path }
    function plain(path) { sub(/\.tmp-[0-9-]*$/, "", path); return path }
    # Training goes on beside the save: rows of later steps may wait for the next one.
    $2 == "write" && $3 ~ /metrics.jsonl$/ { rows++ }
    $2 == "fsync" && $3 ~ /metrics.jsonl$/ { flushed = rows }
    $2 == "mkdir" && match($3, /step-[0-9]*/) && substr($3, RSTART + 5, RLENGTH - 5) + 0 > flushed + 0 { bad("begun ahead of its rows") }
    $2 == "write" { dirty[plain($3)] = 1 }
    $2 == "fsync" { delete dirty[plain($3)]; if ($3 == unflushed) unflushed = "" }
    $2 == "rename" && $3 !~ /-old\.tmp-/ {  # that one is on its way out
      if ($3 in dirty) bad("renamed before it was flushed")
      if (unflushed != "") bad(unflushed " was not flushed before the next rename")
      if ($3 ~ /\/step-[0-9]*$/) { newest = $3; saves++ }
      if ($3 ~ /latest$/ && newest == "") bad("latest, with nothing new")
      if ($3 ~ /latest$/) newest = ""
      unflushed = folder($3)
    }
    $2 ~ /unlink/ && newest != "" { bad("removed before latest was replaced") }
    END { if (saves != 3) bad(saves + 0 " saves"); if (unflushed != "") bad(unflushed " was not flushed"); exit wrong }' \
    "$work/calls" >"$work/order" || fail "the order of a save: $(head -n 1 "$work/order")"
  for what in $kinds; do
    ended=0
    for ((at = ${FIRST:-1 + RANDOM % every}; at <= total; at += every)); do
      rm -rf "$work/fault"
      fault "$at" "$what"
      if [[ $status != 0 ]]; then
        ended=$((ended + 1))
        case $what in
          kill) [[ $status == 137 ]] ;;
          short) false ;;
          *) [[ $status == 4 ]] && grep -q "^mtpx: .*$work/fault" "$work/log" ;;
        esac || fail "$what at call $at: exit code $status: $(tail -n 1 "$work/log")"
        "$mtpx" "${train[@]}" --steps 12 --save-every 4 --keep-last 1 --resume auto --out "$work/fault" >"$work/log" 2>&1 ||
          fail "$what at call $at: cannot go on: $(tail -n 1 "$work/log")"
      fi
      same "$what at call $at" "$work/short" "$work/fault"
    done
    echo "$what: each $every-th of $total calls; ended $ended runs"
  done

  # The end of the process at each call of a run over a model with another tokenizer of as many ids: the folder is the old
  # model or the new one, whichever calls there were.
  tac "$work/text.txt" | tr a-m n-z >"$work/other.txt"
  over=(train --config "$work/config.json" --vocab-size 300 --seq 32 --batch 2 --steps 1 --save-every 0 --prompt x --force)
  for name in text other; do
    "$mtpx" "${over[@]}" --data "$work/$name.txt" --out "$work/$name.model" >/dev/null
    "$mtpx" score --model "$work/$name.model" --data "$work/text.txt" --seq 32 >"$work/$name.score"
  done
  # replace CALL: a run over a copy of one model with the text of the other, which ends at that call.
  replace() {
    rm -rf "$work/over"
    cp -r "$work/other.model" "$work/over"
    FAULT_PATH=$work/over FAULT_AT=$1 FAULT_DO=kill LD_PRELOAD=$faults "$mtpx" "${over[@]}" --data "$work/text.txt" --out "$work/over" \
      >"$work/log" 2>&1 &
    wait $! 2>/dev/null || true
    "$mtpx" score --model "$work/over" --data "$work/text.txt" --seq 32 >"$work/score" 2>"$work/stderr" || fail "replaced until call $1: $(cat "$work/stderr")"
  }
  FAULT_LOG=$work/replaced replace 0
  cmp "$work/score" "$work/text.score" || fail "a run over another model"
  new=0 total=$(wc -l <"$work/replaced") step=$((1 + every / 20))
  for ((at = 1 + RANDOM % step; at <= total; at += step)); do
    replace "$at"
    if cmp -s "$work/score" "$work/text.score"; then
      new=$((new + 1))
    else
      cmp "$work/score" "$work/other.score" || fail "replaced until call $at: neither the old model nor the new one"
    fi
  done
  echo "over another tokenizer: each $step-th of $total calls; $new times the new model"
fi

# A disk of 2 MB, refused where it is too small for the run, and full in the middle of it: told with path and bytes, what is
# there stays, and goes on with more room.
mkdir "$work/disk"
if mount -t tmpfs -o size=2m tmpfs "$work/disk" 2>/dev/null; then
  trap 'umount "$work/disk"; rm -rf "$work"' EXIT
  full=("${train[@]}" --steps 300 --save-every 4 --out "$work/disk/run" --keep-last)
  status=0
  "$mtpx" "${full[@]}" 4 >/dev/null 2>"$work/log" || status=$?
  [[ $status == 4 && $(cat "$work/log") == "mtpx: [train] --out $work/disk/run: the run takes "* && ! -e $work/disk/run ]] ||
    fail "2 MB for four checkpoints: exit code $status: $(cat "$work/log")"
  status=0
  "$mtpx" "${full[@]}" 1 >"$work/log" 2>&1 &
  process=$!
  for ((i = 0; i < 300; ++i)); do
    if [[ -s $work/disk/run/checkpoints/latest ]]; then break; fi
    sleep 0.05
  done
  head -c 2000000 /dev/zero >"$work/disk/ballast" 2>/dev/null || true
  wait $process || status=$?
  [[ $status == 4 && $(tail -n 1 "$work/log") == "mtpx: "*"$work/disk/run/"* ]] || fail "2 MB: exit code $status: $(tail -n 1 "$work/log")"
  rm "$work/disk/ballast"
  "$mtpx" "${full[@]}" 1 --resume auto >"$work/log" 2>&1 || fail "2 MB, with more room: $(tail -n 1 "$work/log")"
  [[ -z $(find "$work/disk" -name '*.tmp-*') ]] || fail "2 MB: left behind: $(find "$work/disk" -name '*.tmp-*')"
  "$mtpx" "${train[@]}" --steps 300 --save-every 0 --out "$work/roomy" >/dev/null
  same "2 MB" "$work/roomy" "$work/disk/run"
else
  echo "not shown: a full disk (no tmpfs can be mounted here)"
fi

# Signals: the step is finished and saved, and the run goes on from there. SIGUSR1 saves and goes on.
for signal in TERM INT; do
  code=143
  if [[ $signal == INT ]]; then code=130; fi
  rm -rf "$work/signal"
  killed "SIG$signal" $code $signal 0.3 "${train[@]}" --steps 60 --save-every 0 --out "$work/signal"
  "$mtpx" "${train[@]}" --steps 60 --save-every 0 --resume auto --out "$work/signal" >"$work/log"
  same "SIG$signal" "$work/whole" "$work/signal"
done

rm -rf "$work/signal"
"$mtpx" "${train[@]}" --steps 400 --save-every 0 --out "$work/signal" >"$work/log" 2>&1 &
process=$!
for ((i = 0; i < 100; ++i)); do
  if [[ -s $work/signal/metrics.jsonl ]]; then break; fi
  sleep 0.1
done
kill -USR1 "$process"
wait "$process" || fail "SIGUSR1 ended the run: $(tail -n 1 "$work/log")"
[[ -s $work/signal/checkpoints/latest && $(cat "$work/signal/checkpoints/latest") != step-00000400 ]] || fail "SIGUSR1 has saved nothing"

# Every design, frozen trunk, accumulation, bf16.
variant() {
  local name=$1
  shift
  "$mtpx" "${train[@]}" --steps 20 "$@" --out "$work/$name.whole" >/dev/null
  killed "$name" 137 KILL "0.2" "${train[@]}" --steps 20 --save-every 3 "$@" --out "$work/$name"
  "$mtpx" "${train[@]}" --steps 20 --save-every 3 "$@" --resume auto --out "$work/$name" >"$work/log"
  same "$name" "$work/$name.whole" "$work/$name"
}
for heads in repeated parallel linear; do variant "$heads" --heads "$heads"; done
variant accumulation --accumulation 3 --mask-documents
variant bf16 --dtype bf16
train=(train --init "$work/whole" "${train[@]:3}")
variant frozen --freeze-trunk
train=(train --config "$work/config.json" "${train[@]:3}")

# What differs is refused, field by field; what is meant is taken.
resume=("${train[@]:0:11}" --save-every 5 --resume auto --out "$work/whole")
expect 2 "mtpx: [train] --resume $work/whole/checkpoints/step-00000060: this is not the run that was saved; --override names fields that may differ
  batch: \"2\" then, \"3\" now
  lr: \"0.003\" then, \"0.1\" now" "${resume[@]}" --steps 60 --lr 0.1 --batch 3
"$mtpx" "${resume[@]}" --batch 2 --steps 64 --override steps >"$work/log" || fail "--override steps: $(tail -n 1 "$work/log")"
[[ $(tail -n 2 "$work/whole/metrics.jsonl" | cut -c1-11) == $'{"step":64,\n{"step":64,' ]] || fail "--override steps: $(tail -n 2 "$work/whole/metrics.jsonl")"
expect 2 "mtpx: [train] --out $work/killed: a model is there already; --force replaces it" "${train[@]}" --steps 1 --out "$work/killed"
rm "$work/killed/model.safetensors"
expect 2 "mtpx: [train] --out $work/killed: a run, with checkpoints that --resume auto goes on from, is there already; --force replaces it" \
  "${train[@]}" --steps 1 --out "$work/killed"

# A checkpoint that changed: the one before is taken under auto; named, it is an error.
newest=$work/killed/checkpoints/step-00000060
printf 'x' | dd of="$newest/optimizer.safetensors" bs=1 seek=5000 conv=notrunc 2>/dev/null
"$mtpx" "${train[@]}" --steps 60 --save-every 5 --resume auto --out "$work/killed" >"$work/log"
grep -q "^notice: .*optimizer.safetensors: has changed since it was written: its checksum is another one; the one before is taken$" "$work/log" ||
  fail "a changed checkpoint: $(head -n 2 "$work/log")"
printf 'x' | dd of="$newest/optimizer.safetensors" bs=1 seek=5000 conv=notrunc 2>/dev/null
expect 3 "mtpx: [checkpoint] $newest/optimizer.safetensors: has changed since it was written: its checksum is another one" \
  "${train[@]}" --steps 60 --save-every 5 --resume "$newest" --out "$work/killed"

# Two trainings into one folder: the second is refused.
"$mtpx" "${train[@]}" --steps 100000 --out "$work/locked" >/dev/null 2>&1 &
process=$!
for ((i = 0; i < 100; ++i)); do
  if [[ -s $work/locked/metrics.jsonl ]]; then break; fi
  sleep 0.1
done
expect 4 "mtpx: [lock] $work/locked: another process writes to it" "${train[@]}" --steps 1 --force --out "$work/locked"
kill -9 $process
wait $process 2>/dev/null || true

# A step that is not finite: the run ends with what was before it saved, or leaves the batch out.
expect 5 "mtpx: [train] step 2: loss 7.20903 and gradient norm nan must be finite; the weights are those of the step before" \
  "${train[@]}" --steps 4 --lr 1e30 --warmup 0 --save-every 0 --out "$work/bad"
[[ -s $work/bad/checkpoints/step-00000001/model.safetensors ]] || fail "a bad step: no checkpoint of the step before"
expect 5 "mtpx: [train] step 4: loss 7.20903 and gradient norm nan must be finite; the weights are those of the step before" \
  "${train[@]}" --steps 9 --lr 1e30 --warmup 0 --on-nonfinite skip:2 --save-every 0 --out "$work/skipped"
[[ $(grep -c left_out "$work/skipped/metrics.jsonl") == 2 ]] || fail "--on-nonfinite skip:2: $(cat "$work/skipped/metrics.jsonl")"

[[ $failures == 0 ]] && echo "resume: all checks passed"
exit $((failures > 0))
