#!/usr/bin/env bash
# Several processes train one model: their files are those of one, by `mtpx launch` and by mpirun; and what becomes of a run
# whose ranks die, are too few or do not do the same.
# Usage: tests/program/ranks_test.sh PROGRAM      MPIRUN="mpirun FLAG...": that starts ranks, unless empty
# KILLS=N: so many ranks are killed (default 6)
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"
train=(train --data "$work/text.txt" --config "$work/config.json" --batch 1 --seq 32 --accumulation 4 --steps 12 --save-every 4
  --eval-every 6 --eval-windows 3 --keep-last 9 --device cpu --threads 1)

# same NAME FOLDER: the model, what was reported and every checkpoint are those of one process.
same() {
  for file in model.safetensors metrics.jsonl run.json checkpoints; do
    diff -r "$work/one/$file" "$2/$file" >"$work/diff" || fail "$1: $file is another one: $(head -n 5 "$work/diff")"
  done
}
"$mtpx" "${train[@]}" --out "$work/one" >"$work/log" || fail "one process: exit code $?"
for ranks in 2 4; do
  "$mtpx" launch -n "$ranks" -- "${train[@]}" --out "$work/$ranks" >"$work/log" 2>&1 || fail "$ranks ranks: exit code $?: $(cat "$work/log")"
  same "$ranks ranks" "$work/$ranks"
  [[ $(grep -c '^trained 12 steps' "$work/log") == 1 ]] || fail "$ranks ranks: not one of them speaks: $(cat "$work/log")"
done
# The same where each rank has a part of the experts.
for ranks in 2 4; do
  "$mtpx" launch -n "$ranks" -- "${train[@]}" --share-experts --out "$work/experts$ranks" >"$work/log" 2>&1 ||
    fail "experts over $ranks ranks: exit code $?: $(cat "$work/log")"
  same "experts over $ranks ranks" "$work/experts$ranks"
done
if [[ -n ${MPIRUN-} ]]; then
  $MPIRUN -n 2 "$mtpx" "${train[@]}" --out "$work/mpi" >"$work/log" 2>&1 || fail "mpirun: exit code $?: $(cat "$work/log")"
  same "mpirun" "$work/mpi"
fi
# Ranks that share a text score it as one does.
score=(score --model "$work/one" --data "$work/text.txt" --seq 16 --batch 2 --device cpu --threads 1)
"$mtpx" "${score[@]}" >"$work/score.1" || fail "score: exit code $?"
"$mtpx" launch -n 3 -- "${score[@]}" >"$work/score.3" 2>"$work/log" || fail "score of 3 ranks: exit code $?: $(cat "$work/log")"
cmp "$work/score.1" "$work/score.3" || fail "3 ranks score $(cat "$work/score.3") and one $(cat "$work/score.1")"
for parts in '2 --share-experts' '4 --layout Et|tmmL' '4 --layout Et|tmmL --share-experts'; do
  # shellcheck disable=SC2086
  "$mtpx" launch -n "${parts%% *}" -- "${score[@]}" ${parts#* } >"$work/score.parts" 2>"$work/log" || fail "score by $parts: exit code $?: $(cat "$work/log")"
  cmp "$work/score.1" "$work/score.parts" || fail "score by $parts: $(cat "$work/score.parts") and by one $(cat "$work/score.1")"
done

# What a rank takes is planned with balanced experts, whatever stood in memory before.
"$mtpx" launch -n 2 -- train --data "$work/text.txt" --preset tiny --seq 32 --accumulation 2 --steps 2 --share-experts --device cpu --threads 1 \
  --dry-run --out "$work/planned" >"$work/log" 2>&1 || fail "a plan of shared experts: exit code $?: $(cat "$work/log")"

# Goes on from a checkpoint of one process with four, and with two that share the experts out, and from one of four with one.
for grid in '4' '1' '2 --share-experts'; do
  rm -rf "$work/resumed" && cp -r "$work/$([[ $grid == 1 ]] && echo experts4 || echo one)" "$work/resumed"
  rm -r "$work/resumed/checkpoints/step-00000012" "$work/resumed/model.safetensors"
  echo step-00000008 >"$work/resumed/checkpoints/latest"
  "$mtpx" launch -n "${grid%% *}" -- "${train[@]}" ${grid#?} --out "$work/resumed" --resume auto >"$work/log" 2>&1 ||
    fail "resumed by $grid: exit code $?: $(cat "$work/log")"
  same "resumed by $grid ranks" "$work/resumed"
done

# refused CODE TEXT COMMAND...: ends with CODE and says TEXT; nothing is written.
refused() {
  local code=$1 said=$2 status=0
  shift 2
  "$@" --out "$work/refused" >"$work/log" 2>&1 || status=$?
  [[ $status == "$code" ]] || fail "exit code $status instead of $code: $(cat "$work/log")"
  grep -qE "$said" "$work/log" || fail "does not say '$said': $(cat "$work/log")"
  [[ ! -e $work/refused ]] || fail "$said: wrote $(ls -a "$work/refused")"
}
refused 2 'accumulation = 4: must be a multiple of the 3 ranks' "$mtpx" launch -n 3 -- "${train[@]}"
refused 2 'n_routed_experts = [0-9]* has no part [0-9] of 3 equal ones' "$mtpx" launch -n 3 -- "${train[@]/#4/3}" --share-experts
refused 2 'WORLD_SIZE is set and RANK is not' env WORLD_SIZE=2 "$mtpx" "${train[@]}"
refused 2 "RANK = '2': a whole number from 0 to 1" env WORLD_SIZE=2 RANK=2 MASTER_PORT=1 "$mtpx" "${train[@]}"

# pair FIRST SECOND ARGUMENTS...: ranks 0 and 1 with these worlds; the second with ARGUMENTS. Leaves both outputs and codes.
pair() {
  local port first=0 second=0
  port=$((20000 + RANDOM % 20000))
  WORLD_SIZE=$1 RANK=0 MASTER_PORT=$port "$mtpx" "${train[@]}" --out "$work/pair" >"$work/log.0" 2>&1 &
  WORLD_SIZE=$2 RANK=1 MASTER_PORT=$port "$mtpx" "${train[@]}" --out "$work/pair" "${@:3}" >"$work/log.1" 2>&1 || second=$?
  wait $! || first=$?
  codes="$first $second"
  [[ ! -e $work/pair/model.safetensors ]] || fail "a pair that does not agree wrote a model"
}
pair 2 4
[[ $codes == '8 8' ]] && grep -q 'WORLD_SIZE is 2 on rank 0 and 4 on rank 1' "$work/log.0" ||
  fail "another size of the world: exit codes $codes: $(cat "$work"/log.?)"
pair 2 2 --lr 0.5
[[ $codes == '2 2' ]] && grep -q 'rank 1 has another run than rank 0: .*"lr": "0.5"' "$work/log.0" "$work/log.1" ||
  fail "another rate: exit codes $codes: $(cat "$work"/log.?)"

# A rank that is killed ends all, with its number, and leaves nothing half written that anybody takes for whole; the run goes
# on to the bytes of one that nobody disturbed.
long=(train --data "$work/text.txt" --config "$work/config.json" --batch 1 --seq 32 --accumulation 4 --steps $((30 * ${KILLS:-6} + 20)) --save-every 10
  --eval-every 100 --eval-windows 3 --device cpu --threads 1)
"$mtpx" "${long[@]}" --out "$work/undisturbed" >"$work/log" || fail "an undisturbed run: exit code $?"
rows() { { cat "$work/killed/metrics.jsonl" 2>/dev/null || true; } | wc -l; }
killed=0 slowest=0
for ((kill = 0; kill < ${KILLS:-6}; ++kill)); do
  # Ranks with whole models, stages of two copies of a pipeline, ranks with parts of the experts: from the same checkpoints.
  victim=$((kill % 4))
  case $((kill % 3)) in 0) grid=() ;; 1) grid=(--layout 'Et|tmmL') ;; 2) grid=(--share-experts) ;; esac
  "$mtpx" launch -n 4 -- "${long[@]}" "${grid[@]}" --out "$work/killed" --resume auto >"$work/log" 2>&1 &
  launcher=$! begin=$SECONDS rank=
  # Some steps behind where it begins, or in the middle of beginning.
  until_row=$((RANDOM % 30 + $(rows)))
  until [[ -s $work/log ]] && (($(rows) >= until_row || SECONDS - begin > 60)); do sleep 0.01; done
  for process in $(pgrep -P "$launcher"); do
    if tr '\0' '\n' 2>/dev/null <"/proc/$process/environ" | grep -qx "RANK=$victim"; then rank=$process; fi
  done
  begin=$SECONDS status=0
  [[ -z $rank ]] || kill -9 "$rank" || rank=
  wait "$launcher" || status=$?
  ((SECONDS - begin <= slowest)) || slowest=$((SECONDS - begin))
  ((SECONDS - begin < 30)) || fail "the others ended $((SECONDS - begin)) s behind rank $victim"
  if [[ $status == 0 ]]; then continue; fi  # it was at its end before
  killed=$((killed + 1))
  [[ $status == 137 ]] && grep -q "^mtpx: rank $victim of 4 was ended by signal 9; so did the run" "$work/log" ||
    fail "rank $victim killed, ${grid[*]}: exit code $status: $(cat "$work/log")"
done
((killed > 0)) || fail "no rank was killed in time"
"$mtpx" launch -n 2 -- "${long[@]}" --out "$work/killed" --resume auto >"$work/log" 2>&1 || fail "behind the killed: exit code $?: $(cat "$work/log")"
cmp "$work/undisturbed/model.safetensors" "$work/killed/model.safetensors" || fail "a run whose ranks were killed has other bytes"
cmp "$work/undisturbed/metrics.jsonl" "$work/killed/metrics.jsonl" || fail "a run whose ranks were killed has other figures"
# A signal to the launcher is one to all: they finish the same step, save, and end.
"$mtpx" launch -n 2 -- "${long[@]}" --out "$work/ended" >"$work/log" 2>&1 &
launcher=$! begin=$SECONDS status=0
until [[ -s $work/ended/metrics.jsonl ]] || ((SECONDS - begin > 60)); do sleep 0.01; done
kill -TERM "$launcher"
wait "$launcher" || status=$?
[[ $status == 143 && -s $work/ended/model.safetensors ]] || fail "SIGTERM: exit code $status: $(cat "$work/log")"
"$mtpx" launch -n 4 -- "${long[@]}" --out "$work/ended" --resume auto >"$work/log" 2>&1 || fail "behind SIGTERM: exit code $?: $(cat "$work/log")"
cmp "$work/undisturbed/model.safetensors" "$work/ended/model.safetensors" || fail "a run that was ended has other bytes"

# Saves that fail on the rank that writes: the run goes on, and a signal ends all ranks, whenever it comes to each.
for turn in 1 2 3 4 5; do
  rm -rf "$work/unsaved"
  "$mtpx" launch -n 2 -- "${long[@]/#$((30 * ${KILLS:-6} + 20))/100000}" --on-failed-save go-on --out "$work/unsaved" >"$work/log" 2>&1 &
  launcher=$! begin=$SECONDS status=0
  until [[ -s $work/unsaved/checkpoints/latest ]] || ((SECONDS - begin > 60)); do sleep 0.01; done
  mv "$work/unsaved/checkpoints" "$work/unsaved/before" && touch "$work/unsaved/checkpoints"
  until grep -q 'the run goes on' "$work/log" || ((SECONDS - begin > 60)); do sleep 0.01; done
  kill -TERM "$launcher"
  timeout 30 tail --pid="$launcher" -f /dev/null || { fail "ranks wait for ever behind a save that failed: $(cat "$work/log")"; pkill -9 -P "$launcher"; }
  wait "$launcher" || status=$?
  [[ $status == 143 && -s $work/unsaved/model.safetensors ]] || fail "behind a save that failed, $turn: exit code $status: $(cat "$work/log")"
done

[[ $failures == 0 ]] && echo "ranks: all checks passed; $killed ranks were killed, the others ended in $slowest s at most"
exit $((failures > 0))
