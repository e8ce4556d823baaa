#!/usr/bin/env bash
# What a training takes is known before it begins, and what cannot fit is refused; the line of progress.
# Usage: tests/program/dry_run_test.sh PROGRAM [DEVICE]
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"
text=(train --data "$work/text.txt" --eval-windows 11)
train=("${text[@]}" --config "$work/config.json" --seq 64)

# near NAME ARGUMENTS...: a dry run writes nothing, and tells the peak of the tensors to 3 %.
near() {
  local name=$1 planned measured
  shift
  rm -rf "$work/out"
  "$mtpx" "${train[@]}" --steps 4 --out "$work/out" "$@" --dry-run >"$work/dry" || fail "$name: exit code $?"
  [[ ! -e $work/out ]] || fail "$name: a dry run wrote $(ls -a "$work/out")"
  "$mtpx" "${train[@]}" --steps 4 --out "$work/out" "$@" >"$work/log" || fail "$name: exit code $?: $(tail -n 1 "$work/log")"
  planned=$(sed -nE 's/^peak of tensors: .*, ([0-9]+) bytes$/\1/p' "$work/dry")
  measured=$(sed -nE 's/.*"peak_bytes":([0-9]+).*/\1/p' "$work/out/times.jsonl")
  ((planned * 100 < measured * 103 && planned * 100 > measured * 97)) ||
    fail "$name: $planned bytes were planned, $measured were taken"
}
near "depth 2"
near "depth 0, bf16" --depth 0 --dtype bf16
near "tied embeddings" --tie-word-embeddings
near "depth 3, accumulation" --depth 3 --accumulation 3 --batch 2
near "checkpointed activations" --checkpoint-activations --batch 16
near "bf16, parallel heads" --dtype bf16 --heads parallel
cp -r "$work/out" "$work/first"
near "a frozen trunk and other depths" --init "$work/first" --depth 1 --freeze-trunk

# What it says, and that nothing changes where a run is.
cp -r "$work/out" "$work/before"
"$mtpx" "${train[@]}" --steps 4 --out "$work/out" --resume auto --init "$work/first" --depth 1 --freeze-trunk --dry-run >"$work/dry" ||
  fail "a dry run of a run that is there: exit code $?"
diff -r "$work/before" "$work/out" || fail "a dry run changed the run"
for what in '"hidden_size": 32' parameters weights gradients optimiser model.layers.0 'memory of the host' disk; do
  grep -q "$what" "$work/dry" || fail "a dry run does not tell $what: $(cat "$work/dry")"
done

# refused CODE WHAT TEXT ARGUMENTS...: neither a run nor a dry run, which tells its figures; nothing is written.
refused() {
  local code=$1 what=$2 said=$3 status=0
  shift 3
  rm -rf "$work/refused"
  "$mtpx" "${text[@]}" --out "$work/refused" "$@" >"$work/stdout" 2>"$work/stderr" || status=$?
  [[ $status == "$code" ]] || fail "$what: exit code $status instead of $code: $(cat "$work/stderr")"
  grep -qE "$said" "$work/stderr" || fail "$what: said '$(cat "$work/stderr")'"
  [[ ! -e $work/refused ]] || fail "$what: wrote $(ls -a "$work/refused")"
  status=0
  "$mtpx" "${text[@]}" --out "$work/refused" "$@" --dry-run >"$work/stdout" 2>"$work/stderr" || status=$?
  [[ $status == "$code" ]] || fail "$what, dry run: exit code $status instead of $code"
  grep -q '^peak of tensors: ' "$work/stdout" || fail "$what, dry run: no figures"
}
# A model that no machine holds, and a step; a sanitizer has no room for their addresses.
if [[ -z ${SANITIZED-} ]]; then
  sed -e 's/"hidden_size": 32/"hidden_size": 65536/; s/"intermediate_size": 64/"intermediate_size": 4194304/' \
    "$work/config.json" >"$work/huge.json"
  refused 6 "a model that is too large" \
    '^mtpx: \[train\] the run takes [0-9.]+ TiB of the (host|GPU).s memory, and .* are free: weights .* TiB.*--preset.*--dtype bf16$' \
    --config "$work/huge.json" --seq 16
  sed -e 's/"intermediate_size": 64/"intermediate_size": 1000000/; s/"max_position_embeddings": 128/"max_position_embeddings": 8192/' \
    "$work/config.json" >"$work/wide.json"
  refused 6 "a step that is too large" 'a step [0-9.]+ TiB.*lower --batch .* or --seq, or take --checkpoint-activations$' \
    --config "$work/wide.json" --batch 16 --seq 8192 --validation 0
fi
refused 4 "checkpoints that are too many" \
  '^mtpx: \[train\] --out .*: the run takes .* TiB there, and .* are free: .* 1000000001 .*--keep-last.*--save-every.*--out$' \
  --config "$work/config.json" --seq 64 --steps 1073741824 --save-every 1 --keep-last 1000000000

# On a terminal of 80 columns a step is one line, with the share of the peak where that is known.
if command -v script >/dev/null; then
  script -qefc "stty cols 80; exec '$mtpx' ${train[*]} --depth 4 --steps 100000 --warmup 9000 --out '$work/line'" \
    "$work/typescript" >/dev/null </dev/null &
  process=$!
  for ((i = 0; i < 600; ++i)); do
    if grep -qs $'\033\\[Kstep 20/' "$work/typescript"; then break; fi
    sleep 0.1
  done
  kill $process
  wait $process || true
  tr '\r' '\n' <"$work/typescript" | grep $'^\033\\[Kstep' | sed $'s/^\033\\[K//' >"$work/lines" || true
  [[ -s $work/lines ]] || fail "no line on a terminal: $(cat "$work/typescript")"
  awk 'length($0) > 79 { print; long = 1 } END { exit long }' "$work/lines" || fail "a line on a terminal is too long"
  [[ -n $device && $device != cpu ]] || ! grep -qv 'MFU [0-9.]*%  ETA' "$work/lines" || fail "no share of the peak: $(head -n 1 "$work/lines")"
fi

[[ $failures == 0 ]] && echo "program: what a run takes is told before"
exit $((failures > 0))
