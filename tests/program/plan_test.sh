#!/usr/bin/env bash
# What a pipeline takes, told before anything runs; layouts that cannot be.
# Usage: tests/program/plan_test.sh PROGRAM [DEVICE]
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"
plan=(plan --config "$work/config.json" --batch 2 --seq 32)

# Two layers, two depths: on four ranks as four stages, two copies of two, four copies of all.
"$mtpx" "${plan[@]}" --times t=4,m=3,L=2 >"$work/table" || fail "plan: exit code $?"
for row in '^4 ranks, 16 micro-batches of 2 x 32 tokens, float32; costs: --times$' \
  '^layout +stages +copies +micro-batches +balance +efficiency +memory of a rank +ms a step$' \
  '^E\|t\|t\|mmL +4 +1 +16 +50\.0 % ' '^Ett\|mmL +2 +2 +8 +100\.0 % +88\.9 % ' \
  '^EttmmL +1 +4 +4 +100\.0 % +100\.0 % +[0-9.]+ MiB +64\.0$' '^E\|t\|t\|mmL, stage by stage$' '^3 +50\.0 % '; do
  grep -qE "$row" "$work/table" || fail "plan does not show '$row': $(cat "$work/table")"
done

# Experts shared out: 1.5 times 32, 31 and 30 rows of 128 bytes to each of three others, there and back, forward and backward.
"$mtpx" "${plan[@]}" --times t=4,m=3,L=2 --layout EttmmL --share-experts --wire 0.001 >"$work/table" || fail "plan --wire: exit code $?"
grep -qE '^EttmmL +1 +4 +4 +.* 924\.2$' "$work/table" || fail "plan --wire: $(cat "$work/table")"

# As JSON, by counted operations; weights of the stages are those of the model.
"$mtpx" "${plan[@]}" --ranks 2 --json >"$work/json" || fail "plan --json: exit code $?"
[[ $(wc -l <"$work/json") == 1 ]] || fail "plan --json prints more than a line"
[[ $(grep -oE '"layout":"[^"]*"' "$work/json" | tr '\n' ' ') == '"layout":"Ett|mmL" "layout":"EttmmL" ' ]] ||
  fail "plan --json: $(cat "$work/json")"
mapfile -t parameters < <(grep -oE '"parameters":[0-9]+' "$work/json" | tr -dc '0-9\n')
((${#parameters[@]} == 3 && parameters[0] + parameters[1] == parameters[2])) ||
  fail "plan --json: two stages have not the model's parameters: ${parameters[*]}"

"$mtpx" "${plan[@]}" --ranks 4 --layout 'Et|tm*2L' --dtype bf16 --checkpoint-activations >"$work/table" ||
  fail "plan --layout: exit code $?"
grep -qE '^Et\|tmmL +2 +2 +8 ' "$work/table" || fail "plan --layout: $(cat "$work/table")"

expect 2 'mtpx: [layout] "Et|tmm", place 7: it ends with L, the output head' "${plan[@]}" --layout 'Et|tmm'
expect 2 'mtpx: [layout] "Et|mmL" is none of this model
  1 t, num_hidden_layers = 2: a t for every layer' "${plan[@]}" --layout 'Et|mmL'
expect 2 'mtpx: [plan] --ranks 3, --micro-batches 16: copies of 2 stages must divide the ranks, and the micro-batches the copies' \
  "${plan[@]}" --ranks 3 --layout 'Et|tmmL'
expect 2 'mtpx: [plan] --ranks 5, --micro-batches 3: no number of stages gives each rank a part of the model and an equal number of micro-batches' \
  "${plan[@]}" --ranks 5 --micro-batches 3
expect 2 'mtpx: [plan] --times t=-1: a time is 0 or positive' "${plan[@]}" --times t=-1
expect 2 'mtpx: [plan] --times t=1x: a time is 0 or positive' "${plan[@]}" --times t=1x
expect 2 'mtpx: [plan] --times x=1: a letter of a layout and its time, as t=3.5' "${plan[@]}" --times x=1
expect 2 'mtpx: [plan] --times t=2: is given twice' "${plan[@]}" --times t=1,t=2
expect 2 'mtpx: [plan] --times names no m' "${plan[@]}" --times t=1,L=2
exit $((failures > 0))
