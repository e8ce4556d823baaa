#!/usr/bin/env bash
# mtpx report: the page has the numbers of metrics.jsonl, of one run and of several; what is no row is refused, with its line.
# mtpx compare: goes on behind the runs that are finished; a report.json that somebody changed ends in one line.
# Usage: report_test.sh PATH_OF_MTPX [DEVICE]
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"
here=$(cd "$(dirname "$0")" && pwd)
program=$1  # as it is: what follows trains nothing, or little

# ---- A run, and its page -------------------------------------------------------------------------------------------------

"$mtpx" train --config "$work/config.json" --data "$work/text.txt" --seq 32 --batch 4 --steps 12 --eval-every 4 --out "$work/run" \
  >/dev/null || fail "train"
"$program" report "$work/run" >"$work/said" || fail "report"
[[ $(cat "$work/said") == "report: $work/run/report.html" ]] || fail "report said $(cat "$work/said")"

# table PAGE TITLE: the cells of the table that is folded below TITLE, a row a line.
table() {
  awk -v title="$2: numbers of" 'index($0, "<summary>" title) { on = 1 } on { print } /<\/table>/ { on = 0 }' "$1" |
    sed -nE 's/.*<tr><td>(.*)<\/td><\/tr>$/\1/p' | sed 's/<\/td><td>/ /g'
}
# numbers FILE KEY: of every row that has KEY, step and KEY, a row a line.
numbers() {
  sed -nE "s/.*\"step\":([0-9]+).*\"$2\":\[?([^]\"}]*)[]}].*/\1 \2/p; s/.*\"step\":([0-9]+).*\"$2\":([^],\"[]*),\".*/\1 \2/p" "$1" | tr ',' ' '
}
# same TITLE KEY [PAGE RUN]: what the page shows under TITLE is KEY in metrics.jsonl, to the last digit.
same() {
  local page=${3:-$work/run/report.html} run=${4:-$work/run}
  table "$page" "$1" >"$work/shown"
  numbers "$run/metrics.jsonl" "$2" >"$work/logged"
  if [[ ! -s $work/logged ]] || ! cmp "$work/shown" "$work/logged"; then fail "$1: the page's numbers are not those of $2"; fi
}
same 'Training loss, nats a token' loss
same 'Gradient norm before clipping' gradient_norm
same 'Learning rate' lr
same 'Validation loss, nats a token' validation_loss
same 'Acceptance: share of labels that a head has right' acceptance
same "Agreement: share of the main head&#39;s choices that a head has" agreement
same 'Bits a byte, main head' bits_per_byte
[[ $(wc -l <"$work/logged") == 3 ]] || fail "not three validations"
page=$work/run/report.html
[[ $(grep -o '<svg' "$page" | wc -l) -ge 9 ]] || fail "not nine drawings"
grep -q 'prefers-color-scheme:dark' "$page" || fail "no colours for dark grounds"
grep -qE '(src|href)=|@import|url\(|<script' "$page" && fail "the page needs another file"
grep -q '<td>config.hidden_size</td><td>32</td>' "$page" || fail "no configuration"

# ---- Rows of every kind, names that are none --------------------------------------------------------------------------------

# A run by hand: a loss that was not finite, loads of two layers, samples; its speed in a file of its own.
two=$work/'a<b>&"c'\'
mkdir "$two"
sed 's/"hidden_size": 32/"hidden_size": 48/' "$work/config.json" >"$two/config.json"
echo '{"lr": {"peak": 0.003}, "data": ["<script>x</script>"]}' >"$two/run.json"
cat >"$two/metrics.jsonl" <<'JSON'
{"step":1,"loss":[5.5,5.75],"total":5.6,"lr":0.001,"lambda":0.3,"gradient_norm":1.25}
{"step":2,"loss":[null,5.5],"total":null,"lr":0.002,"lambda":0.3,"gradient_norm":null}
{"step":2,"validation_loss":[5.25,5.5],"acceptance":[0.125,0.0625],"agreement":[1,0.5],"bits_per_byte":7.5,"sample":"the <b>\n&","expert_load":[[],[0.5,0.25,0.25,0],[0.25,0.25,0.25,0.25]]}
{"step":3,"loss":[5.125,5.25],"total":5.2,"lr":0.003,"lambda":0.3,"gradient_norm":1e-07}
JSON
cp "$two/metrics.jsonl" "$work/sound.jsonl"
printf '%s\n' '{"step":1,"tokens_per_s":100.5}' '{"step":2,"tokens_per_s":99}' '{"step":2,"tokens_per_s":101}' >"$two/times.jsonl"
"$program" report "$two" >/dev/null || fail "report of rows by hand"
page=$two/report.html
[[ $(table "$page" 'Training loss, nats a token' | tr '\n' ',') == '1 5.5 5.75,2 null 5.5,3 5.125 5.25,' ]] || fail "null in a loss"
[[ $(table "$page" 'Gradient norm before clipping' | tr '\n' ',') == '1 1.25,2 null,3 1e-07,' ]] || fail "null in a norm"
[[ $(table "$page" 'Tokens a second' | tr '\n' ',') == '1 100.5,2 101.0,' ]] || fail "times.jsonl: $(table "$page" 'Tokens a second')"
grep -q '<td>2</td><td>2.0</td><td>1.0</td>' "$page" || fail "no numbers of the busiest experts"
grep -q '<td>2</td><td>1</td><td>0.5</td><td>0.25</td><td>0.25</td><td>0.0</td>' "$page" || fail "no shares of experts"
grep -q '<pre>the &lt;b&gt;' "$page" || fail "no sample"
grep -q '<td>run.lr.peak</td><td>0.003</td>' "$page" || fail "no run.json"
grep -qE '<script|<b>&' "$page" && fail "a name is not escaped"

# Side by side: the numbers of each, and what differs.
"$program" report "$work/run" "$two" -o "$work/both.html" >/dev/null || fail "report of two"
table "$work/both.html" 'Training loss, nats a token' >"$work/shown"
{ numbers "$work/run/metrics.jsonl" loss && numbers "$two/metrics.jsonl" loss; } | cmp - "$work/shown" || fail "two: other losses"
grep -q '<tr class="differs"><td>≠ config.hidden_size</td><td>32</td><td>48</td></tr>' "$work/both.html" || fail "two: no mark"
grep -q '<tr><td>config.vocab_size</td><td>256</td><td>256</td></tr>' "$work/both.html" || fail "two: a mark where nothing differs"

# A long run: extremes, the last step, and a page that does not grow.
mkdir "$work/long"
awk 'BEGIN { for (i = 1; i <= 3000; ++i) printf "{\"step\":%d,\"loss\":[%s],\"total\":1,\"lr\":1,\"lambda\":0,\"gradient_norm\":1}\n", i, i == 1234 ? 9.5 : i == 2345 ? 0.5 : 2 + i % 7 / 8 }' \
  >"$work/long/metrics.jsonl"
"$program" report "$work/long" >/dev/null 2>&1 || fail "report of a long run"
table "$work/long/report.html" 'Training loss, nats a token' >"$work/shown"
for row in '1234 9.5' '2345 0.5' '3000 2.5'; do grep -qx "$row" "$work/shown" || fail "a long run lacks '$row'"; done
[[ $(wc -l <"$work/shown") -le 601 && $(wc -l <"$work/shown") -gt 300 ]] || fail "a long run has $(wc -l <"$work/shown") numbers"

# ---- What is refused ---------------------------------------------------------------------------------------------------------

log=$work/long/metrics.jsonl
refused() { # refused "what is said of metrics.jsonl" LINE: LINE behind a sound log
  { cat "$work/sound.jsonl" && printf '%s\n' "$2"; } >"$log"
  expect 3 "mtpx: [report] $log:5: $1" report "$work/long"
}
row='"total":1,"lr":1,"lambda":0,"gradient_norm":1'
refused 'is not JSON at byte 11' '{"step":4,'
refused 'is not JSON at byte 1' ''
refused 'an array: must be an object' '[]'
refused 'step is missing' "{\"loss\":[1,2],$row}"
refused 'step = -4: must be a whole number from 0 to 9007199254740992' "{\"step\":-4,\"loss\":[1,2],$row}"
refused 'step = 3: must come behind step 3: are these rows of two runs?' "{\"step\":3,\"loss\":[1,2],$row}"
refused 'loss = an array: must have 2 numbers' "{\"step\":4,\"loss\":[1,2,3],$row}"
refused 'loss[1] = "2": must be a number' "{\"step\":4,\"loss\":[1,\"2\"],$row}"
refused 'total is missing' '{"step":4,"loss":[1,2]}'
refused 'validation_loss is missing' '{"step":4}'
printf '{"step":4,"lo' | cat "$work/sound.jsonl" - >"$log"
"$program" report "$work/long" >"$work/stdout" 2>"$work/stderr" || fail "a row that is cut off"
grep -qx "notice: $work/long: metrics.jsonl: line 5 is cut off and was left out" "$work/stderr" || fail "no notice: $(cat "$work/stderr")"
expect 3 "mtpx: [report] $work/none/metrics.jsonl: cannot be opened: No such file or directory" report "$work/none"
expect 4 "mtpx: [report] $work/none/page.html: cannot be created: No such file or directory" report "$work/run" -o "$work/none/page.html"

# ---- A comparison that was ended goes on ---------------------------------------------------------------------------------------

compare=(compare --config "$work/config.json" --data "$work/text.txt" --seq 32 --steps 2 --seeds 2 --evaluations 2
  --eval-windows 4 --prompts 1 --context 8 --tokens 8 --designs 'baseline,sequential' --equal-size none --out "$work/report")
"$mtpx" "${compare[@]}" | { head -n 2 >"$work/first" && true; } || true # its reader goes after two runs
[[ -e $work/report/runs.json && ! -e $work/report/report.json ]] || fail "an ended comparison keeps no runs"
expect 2 "mtpx: [compare] $work/report/runs.json: holds runs that were made with other settings (its settings differs); --force drops them" \
  "${compare[@]}" --lr 0.5
"$mtpx" "${compare[@]}" >"$work/second" || fail "compare, again"
earlier=$(grep -c ': finished earlier' "$work/second" || true)
[[ $earlier -ge 2 && $earlier -le 4 ]] || fail "compare, again: $(cat "$work/second")"
[[ ! -e $work/report/runs.json && -e $work/report/report.html ]] || fail "compare, again: no report"
grep -q 'drafts: greedy [0-9.]* x ([0-9]*, [0-9]* %)\( r\)\?, sampled .*, at_1 ' "$work/second" || fail "compare: no row tells of drafts: $(cat "$work/second")"
for key in at_1 sum_min_p_q repeated_8grams prompt_tokens_per_s draft_n draft_n_accepted past_trained_window; do
  grep -q "\"$key\"" "$work/report/report.json" || fail "report.json has no $key"
done
cp "$work/report/report.json" "$work/sound.json"
cp "$work/report/report.html" "$work/sound.html"

# ---- A report.json that was changed --------------------------------------------------------------------------------------------

report=$work/report/report.json
said="mtpx: [compare] $report:"
redrawn() { # redrawn "what is said" SED_EXPRESSION
  sed -E "$2" "$work/sound.json" >"$report"
  cmp -s "$report" "$work/sound.json" && fail "$2 changes nothing"
  expect 3 "$said $1" compare --redraw --out "$work/report"
}
redrawn 'tables is missing' 's/"tables"/"table"/'
redrawn 'tables[0].designs[0].name = 3: must be a text' '0,/"name": "baseline"/s//"name": 3/'
redrawn 'tables[0].designs[0].runs[0].curve[1].loss[0] = null: must be a number' '/"loss": \[/{n;s/[0-9.]+/null/}'
redrawn 'settings.depth = 65: must be a whole number from 0 to 64' '0,/"depth": 2/s//"depth": 65/'
redrawn 'tables[0].designs[0].depth = -1: must be a whole number from 0 to 64' 's/"depth": 0/"depth": -1/'
redrawn 'tables[0].designs[0].summary.main_loss.mean = "x": must be a number' '/"main_loss": /{n;s/[0-9.]+/"x"/}'
sed 's/"name": "sequential"/"name": "<i>\&\\"x"/; s/"what": "/&<script>/' "$work/sound.json" >"$report"
"$program" compare --redraw --out "$work/report" >/dev/null || fail "names that are no HTML"
grep -qE '<script>|<i>' "$work/report/report.html" "$work"/report/*.svg && fail "compare: a name is not escaped"

# A report of an earlier version, without temperature 1, is drawn.
sed 's/"at_1"/"unknown"/; s/"repeated_8grams"/"unknown_8grams"/' "$work/sound.json" >"$report"
"$program" compare --redraw --out "$work/report" >/dev/null || fail "compare: a report of an earlier version"

# What the fuzzer found: drawn, or one line and exit code 3.
inputs=0
for input in "$here"/../fuzz/corpus/report/*; do
  cp "$input" "$report"
  status=0
  "$program" compare --redraw --out "$work/report" >/dev/null 2>"$work/stderr" || status=$?
  [[ $status == 0 || ($status == 3 && $(wc -l <"$work/stderr") == 1) ]] || fail "$input: exit code $status: $(cat "$work/stderr")"
  inputs=$((inputs + 1))
done
[[ $inputs -ge 10 ]] || fail "only $inputs inputs of the fuzzer"
cp "$work/sound.json" "$report"
"$program" compare --redraw --out "$work/report" >/dev/null
cmp "$work/sound.html" "$work/report/report.html" || fail "redrawn, the page differs"

[[ $failures == 0 ]] && echo "program: all checks passed"
exit $((failures > 0))
