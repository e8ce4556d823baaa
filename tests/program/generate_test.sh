#!/usr/bin/env bash
# mtpx generate and mtpx bench --decode: drafting and batches leave the text as it is, the figures add up, options that
# make no sense are refused.
# Usage: tests/program/generate_test.sh PROGRAM [DEVICE]
set -euo pipefail
export LC_ALL=C  # texts are cut by bytes
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"

# refused "start of the one line on standard error" ARGUMENTS...: usage error, nothing on standard output
refused() {
  local start=$1 status=0
  shift
  "$mtpx" "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
  [[ $status == 2 ]] || fail "mtpx $*: exit code $status instead of 2"
  [[ $(cat "$work/stderr") == "$start"* && $(wc -l <"$work/stderr") == 1 ]] || fail "mtpx $*: said '$(cat "$work/stderr")'"
  [[ ! -s $work/stdout ]] || fail "mtpx $*: refused, and wrote '$(cat "$work/stdout")'"
}

# text FILE ARGUMENTS...: what generate writes with these
text() {
  local file=$1 status=0
  shift
  "$mtpx" generate --model "$model" "$@" >"$file" 2>"$work/figures" </dev/null || status=$?
  [[ $status == 0 ]] || fail "generate $*: exit code $status, '$(cat "$work/figures")'"
}

# same EXPECTED ARGUMENTS...: generate with these writes the bytes of the file EXPECTED
same() {
  local expected=$1
  shift
  text "$work/actual" "$@"
  cmp "$expected" "$work/actual" || fail "generate $*: another text than $(basename "$expected")"
}

# figure KEY FILE: a number of the JSON line in FILE, a list's numbers with blanks between
figure() { sed -En "s/^.*[{,]\"$1\":\[?([0-9.,]*)\]?,\".*\$/\1/p" "$2" | tr , ' '; }

# Enough training for drafts that stand now and then; the same model without its modules.
model=$work/model
train=(train --data "$work/text.txt" --seq 32 --batch 4 --prompt '')
"$mtpx" "${train[@]}" --config "$work/config.json" --steps 120 --out "$model" >/dev/null
"$mtpx" "${train[@]}" --init "$model" --steps 1 --export-no-mtp --out "$work/main" >/dev/null

# Prompts of many lengths, one with room for 8 tokens only; the blank line is none.
prompts=('the quick' x 'the quick brown fox number 7' "$(printf 'lazy dog %.0s' {1..13})br" 'jumps é€')
printf '%s\n' "${prompts[@]:0:2}" '' "${prompts[@]:2}" >"$work/prompts"
count=${#prompts[@]}
sampled=(--temperature 0.8 --seed 5)

# The same texts for every number of drafts, batch and thread, and for a prompt alone.
for mode in greedy sampled; do
  options=(--max-tokens 40)
  [[ $mode == greedy ]] || options+=("${sampled[@]}")
  text "$work/$mode" --prompts "$work/prompts" --draft 0 "${options[@]}"
  for draft in 0 1 2 5 auto; do
    for batch in 1 3; do
      same "$work/$mode" --prompts "$work/prompts" --draft $draft --batch $batch "${options[@]}"
    done
  done
  same "$work/$mode" --prompts "$work/prompts" --draft 3 --batch 9 --threads 1 "${options[@]}"
  for ((i = 0; i < count; ++i)); do
    [[ $mode == greedy ]] || options=(--max-tokens 40 --temperature 0.8 --seed $((5 + i)))
    text "$work/alone$i" --prompt "${prompts[i]}" --draft 1 "${options[@]}"
  done
  cat "$work"/alone[0-9] | cmp "$work/$mode" - || fail "$mode: prompts alone give other texts"
done
cmp -s "$work/greedy" "$work/sampled" && fail "--temperature changes nothing"

# Drawn drafts and whole-pass verification: one text for a seed, whatever the batch; greedy, the plain text.
for how in '--draft-tokens drawn' '--verify block' '--draft-tokens drawn --verify block'; do
  read -ra options <<<"$how --draft 2 --max-tokens 40 --prompts $work/prompts"
  text "$work/drawn" "${options[@]}" "${sampled[@]}"
  same "$work/drawn" "${options[@]}" "${sampled[@]}"
  same "$work/drawn" "${options[@]}" "${sampled[@]}" --batch 3
  same "$work/greedy" "${options[@]}"
done
typical=(--verify lossy-typical --draft 2 --max-tokens 40 --prompts "$work/prompts" "${sampled[@]}")
text "$work/typical" "${typical[@]}"
same "$work/typical" "${typical[@]}" --batch 3

# A draft vocabulary changes no text: learnt from the text, kept by the folder and by a run that is taken up again, or
# given.
some=$work/some
"$mtpx" "${train[@]}" --config "$work/config.json" --steps 120 --save-every 60 --keep-last 9 --draft-vocabulary 20 --out "$some" >/dev/null
"$mtpx" "${train[@]}" --config "$work/config.json" --steps 120 --save-every 60 --draft-vocabulary 20 --out "$work/resumed" \
  --resume "$some/checkpoints/step-00000060" >/dev/null
for file in model.safetensors config.json; do
  cmp "$some/$file" "$work/resumed/$file" || fail "--draft-vocabulary: $file of a run that was taken up again"
done
grep -q '"mtpx_draft_vocabulary": 20' "$some/config.json" || fail "config.json does not know its draft vocabulary"
"$mtpx" "${train[@]}" --init "$some" --steps 1 --out "$work/kept" >/dev/null
"$mtpx" "${train[@]}" --init "$some" --steps 1 --draft-vocabulary 0 --out "$work/dropped" >/dev/null
[[ $(cat "$work"/{kept,dropped}/config.json | grep -c mtpx_draft_vocabulary) == 1 ]] || fail "--init: what becomes of a draft vocabulary"
seq 97 122 >"$work/letters"
for mode in greedy sampled; do
  options=(--max-tokens 40 --prompts "$work/prompts")
  [[ $mode == greedy ]] || options+=("${sampled[@]}")
  for draft in 1 3 auto; do model=$some same "$work/$mode" "${options[@]}" --draft $draft; done
  for ids in 0 100 "$work/letters"; do
    same "$work/$mode" "${options[@]}" --draft 2 --batch 3 --draft-vocabulary "$ids"
    model=$some same "$work/$mode" "${options[@]}" --draft 2 --draft-vocabulary "$ids"
  done
  model=$some same "$work/greedy" --max-tokens 40 --prompts "$work/prompts" --draft 2 --verify block
done
# Letters alone miss the spaces, which the text's most frequent bytes have.
accepted=()
for ids in "$work/letters" 256; do
  text "$work/json" --prompts "$work/prompts" --max-tokens 40 --draft 1 --json --draft-vocabulary "$ids"
  accepted+=("$(figure accepted "$work/json")")
  grep -q '"draft_vocabulary":' "$work/json" || fail "no draft_vocabulary: $(cat "$work/json")"
done
((accepted[0] < accepted[1])) || fail "drafts of letters alone stand ${accepted[0]} times, of all bytes ${accepted[1]}"
for ids in '3 2' '3 300' '-1 2'; do
  echo "$ids" >"$work/ids"
  status=0
  "$mtpx" generate --model "$model" --prompt x --draft-vocabulary "$work/ids" >/dev/null 2>"$work/stderr" || status=$?
  [[ $status == 2 && $(cat "$work/stderr") == "mtpx: [draft vocabulary] id "* ]] || fail "ids $ids: exit code $status, '$(cat "$work/stderr")'"
done
echo '1 x' >"$work/ids"
expect 3 "mtpx: [draft vocabulary] $work/ids: \"x\" is no id" generate --model "$model" --prompt x --draft-vocabulary "$work/ids"
expect 2 "mtpx: [draft vocabulary] --draft-vocabulary 257: the model has 256 tokens" \
  generate --model "$model" --prompt x --draft-vocabulary 257

# A full context ends a text quietly; longer drafts than have room change nothing.
text "$work/full" --prompt 'the quick' --max-tokens 1000 --draft 0
[[ $(wc -c <"$work/full") == 129 ]] || fail "a full context is $(wc -c <"$work/full") bytes instead of 129"
for draft in 3 300 auto; do same "$work/full" --prompt 'the quick' --max-tokens 1000 --draft $draft; done
text "$work/json" --prompt "$(printf 'x%.0s' {1..127})" --max-tokens 9 --draft 3 --json
[[ $(figure tokens "$work/json") == 1 ]] || fail "a prompt that leaves room for one token: $(cat "$work/json")"

# The figures add up. A run to the end of the context cuts no draft.
for how in '--draft 1' '--draft 2 --batch 3' '--draft 5' '--draft auto' '--draft 0' '--draft 3 --temperature 0.8 --batch 2' \
  '--draft 2 --draft-tokens drawn --temperature 0.8' '--draft 4 --verify block --temperature 0.8'; do
  read -ra options <<<"$how"
  text "$work/json" --prompts "$work/prompts" --max-tokens 1000 --json "${options[@]}"
  for key in tokens prompt_tokens passes drafts drafted accepted histogram mean_length draft_n draft_n_accepted; do
    echo "$key $(figure $key "$work/json")"
  done >"$work/sums"
  awk -v prompts="$count" -v how="$how" '
    { key = $1; n[key] = NF - 1; for (i = 2; i <= NF; ++i) { value[key, i - 2] = $i; sum[key] += $i } }
    function check(holds, what) { if (!holds) { print how ": " what; failed = 1 } }
    END {
      drafts = value["drafts", 0]
      check(sum["histogram"] == drafts, "the histogram does not sum up to the drafts")
      check(drafts == 0 ? how ~ /draft (0|auto)/ : value["drafted", 0] == drafts, "drafted[0] is not drafts")
      check(n["accepted"] == n["drafted"], "accepted and drafted differ in length")
      check(drafts == 0 || n["histogram"] == n["drafted"] + 1, "the histogram has not one entry more than drafted")
      for (i = 0; i < n["accepted"]; ++i) {
        check(value["accepted", i] <= value["drafted", i], "accepted[" i "] exceeds drafted[" i "]")
        atleast = 0
        for (j = i + 1; j < n["histogram"]; ++j) atleast += value["histogram", j]
        check(value["accepted", i] == atleast, "accepted[" i "] is not what the histogram says")
      }
      check(sum["draft_n"] == sum["drafted"] && sum["draft_n_accepted"] == sum["accepted"], "draft_n is not what was drafted")
      off = value["mean_length", 0] - (drafts ? 1 + sum["accepted"] / drafts : 1)
      check(off < 1e-9 && off > -1e-9, "mean_length is not 1 + accepted / drafts")
      check(sum["tokens"] == prompts + sum["passes"] + sum["accepted"], "tokens are not prompts + passes + accepted")
      check(sum["tokens"] == 128 * prompts - sum["prompt_tokens"], "the contexts are not full")
      exit failed
    }' "$work/sums" >"$work/wrong" || fail "figures: $(cat "$work/wrong" "$work/json")"
done

# Tokens are bytes: no text is special.
for prompt in '<|endoftext|>' '<s>[INST] é€😀 </s>'; do
  text "$work/json" --prompt "$prompt" --max-tokens 2 --json
  [[ $(figure prompt_tokens "$work/json") == "${#prompt}" ]] || fail "$prompt: $(cat "$work/json")"
  grep -Fq "\"text\":\"$prompt" "$work/json" || fail "$prompt is not in the text: $(cat "$work/json")"
done

# What comes out is UTF-8 even where the text ends inside a character, which some of these do.
for ((i = 0; i < 60; ++i)); do echo "number $i"; done >"$work/many"
for options in '' --json; do
  text "$work/wild" --prompts "$work/many" --max-tokens 3 --temperature 5 --batch 16 ${options:+"$options"}
  iconv -f UTF-8 -t UTF-8 "$work/wild" >/dev/null || fail "$options --temperature 5: not UTF-8"
done
text "$work/wild" --prompts "$work/many" --max-tokens 3 --temperature 5
grep -q $'\xef\xbf\xbd$' "$work/wild" || fail "no text ended inside a character"
for length in 1 2 3 4 5 6; do
  text "$work/wild" --prompt é --max-tokens $length --temperature 5 --seed 3
  iconv -f UTF-8 -t UTF-8 "$work/wild" >/dev/null || fail "streamed: not UTF-8"
done

# --stop ends before the first of its texts, across tokens and accepted drafts; a beginning of one is text.
one=(--prompt "${prompts[0]}" --max-tokens 40 --temperature 0.8 --top-k 12 --top-p 0.95 --seed 5)
text "$work/whole" "${one[@]}" --draft 0
whole=$(cat "$work/whole")
made=${whole:9}
for draft in 0 2 auto; do
  for stop in "${made:20:1}" "${made:20:4}" "${made:12:9}"; do
    printf '%s\n' "${prompts[0]}${made%%"$stop"*}" >"$work/stopped"
    same "$work/stopped" "${one[@]}" --draft $draft --stop "$stop"
    same "$work/stopped" "${one[@]}" --draft $draft --stop "$whole" --stop "$stop"
  done
  printf '%s\n' "${prompts[0]}${made%%["${made:20:1}""${made:26:1}"]*}" >"$work/stopped"
  same "$work/stopped" "${one[@]}" --draft $draft --stop "${made:20:1}" --stop "${made:26:1}"
  same "$work/whole" "${one[@]}" --draft $draft --stop "${made: -3}#"
  same "$work/whole" "${one[@]}" --draft $draft --stop "[${made:20:1}]"
done
printf '%s\n' "${prompts[0]}${made%%"${made:20:1}"*}" >"$work/stopped"
"$mtpx" generate --model "$model" "${one[@]}" --stop "${made:20:1}" --json >"$work/json"
[[ $(figure tokens "$work/json") == $(($(wc -c <"$work/stopped") - 9)) ]] || fail "--stop: tokens went on: $(cat "$work/json")"

# A configuration's end token is the last one.
cp -r "$model" "$work/ends"
sed -i 's/"eos_token_id": null/"eos_token_id": 111/' "$work/ends/config.json"
printf '%s\n' "${prompts[0]}${made%%o*}o" >"$work/stopped"
for draft in 0 3; do model=$work/ends same "$work/stopped" "${one[@]}" --no-verify --draft $draft; done

# A model without modules decodes plainly, and says so when asked for drafts.
prompt=(--prompt 'the' --max-tokens 5)
model=$work/main text "$work/main0" "${prompt[@]}" --draft 0
model=$work/main same "$work/main0" "${prompt[@]}" --draft auto
expect 2 "mtpx: [generate] draft = 1: this model has no MTP module (num_nextn_predict_layers = 0)" \
  generate --model "$work/main" "${prompt[@]}" --draft 1

# A reader that goes away ends the run quietly: no message, no figures.
for how in '--prompt x' "--prompts $work/prompts" "--prompts $work/prompts --batch 3 --json"; do
  read -ra options <<<"$how"
  {
    sleep 0.1
    status=0
    "$mtpx" generate --model "$model" "${options[@]}" --draft 2 2>"$work/stderr" || status=$?
    echo $status >"$work/status"
  } | true || true
  [[ $(cat "$work/status") == 0 && ! -s $work/stderr ]] || fail "closed pipe, $how: exit code $(cat "$work/status"), '$(cat "$work/stderr")'"
done

# Options that make no sense.
x=(generate --model "$model" --prompt x)
for value in -1 nan inf; do
  refused "mtpx: " "${x[@]}" --temperature $value
  grep -q temperature "$work/stderr" || fail "--temperature $value: said '$(cat "$work/stderr")'"
done
refused "mtpx: [sampling] top_k = -1: must be 0 (all tokens) or positive" "${x[@]}" --top-k -1
refused "mtpx: [sampling] top_p = 0: must be above 0 and at most 1" "${x[@]}" --top-p 0
refused "mtpx: [sampling] top_p = 1.1: must be above 0 and at most 1" "${x[@]}" --top-p 1.1
for draft in bogus -1 1025 2x 1.5; do
  expect 2 "mtpx: --draft: must be auto or a number from 0 to 1024, not $draft" "${x[@]}" --draft $draft
done
expect 2 "mtpx: --stop: must be text, and not empty" "${x[@]}" --stop ''
expect 2 "mtpx: --stop: must be text, and not empty" "${x[@]}" --stop $'\xbd'
status=0
"$mtpx" "${x[@]}" --max-tokens 3 >/dev/full 2>"$work/stderr" || status=$?
[[ $status == 4 && $(cat "$work/stderr") == "mtpx: standard output: cannot be written: No space left on device" ]] ||
  fail "a full disk: exit code $status, '$(cat "$work/stderr")'"
for how in '--draft-tokens drawn' '--verify block' '--verify lossy-typical'; do
  read -ra options <<<"$how --temperature 0.8 --draft auto"
  expect 2 "mtpx: [generate] draft = automatic: what is chosen depends on the clock, and with drawn drafts, block or lossy verification so would the text; give a number" \
    "${x[@]}" "${options[@]}"
done
expect 2 "mtpx: [generate] typical_epsilon = 2: must be between 0 and 1" "${x[@]}" --draft 1 --typical-epsilon 2
expect 2 "mtpx: [generate] typical_delta = -1: must not be negative" "${x[@]}" --draft 1 --typical-delta -1
refused "mtpx: --prompt excludes --prompts" "${x[@]}" --prompts "$work/prompts"
x=(generate --model "$model" --prompts)
refused "mtpx: Exactly 1 option from [--prompt,--prompts] is required" "${x[@]:0:3}"
expect 3 "mtpx: [generate] --prompts $work/missing: cannot be read" "${x[@]}" "$work/missing"
expect 3 "mtpx: [generate] --prompts $work: cannot be read" "${x[@]}" "$work"
for lines in '' $'\n\n'; do
  printf %s "$lines" >"$work/blank"
  expect 2 "mtpx: [generate] --prompts $work/blank has no line with text" "${x[@]}" "$work/blank"
done
printf 'fine\n\n%s\n' "$(printf 'x%.0s' {1..130})" >"$work/long"
refused "mtpx: [generate] --prompts $work/long line 3 has 130 tokens; max_position_embeddings = 128 leaves room for 127" \
  "${x[@]}" "$work/long"
printf 'fine\n\xff\n' >"$work/bytes"
refused "mtpx: [generate] --prompts $work/bytes line 2 is not valid UTF-8" "${x[@]}" "$work/bytes"

# bench --decode: a line for plain decoding, for 1 to 4 drafts and for auto; greedy, at 0.8 and at 1.
bench=(bench --decode --context 16 --tokens 8 --prompts 2)
"$mtpx" "${bench[@]}" --model "$model" >"$work/bench"
[[ $(sed -E 's/.*"draft":("auto"|[0-9]+),.*/\1/' "$work/bench" | tr '\n' ' ') == \
  '0 1 2 3 4 "auto" 0 1 2 3 4 "auto" 0 1 2 3 4 "auto" ' ]] ||
  fail "bench --decode: $(cat "$work/bench")"
for keys in 'tokens_per_s 18' 'prompt_tokens_per_s 18' 'repeated_8grams 18' 'us_per_token 3' 'read_share 3' 'speedup 15' \
  'mean_length 15' 'draft_n 15' 'draft_n_accepted 15' 'verify_ratio 12' 'model_speedup 12'; do
  read -r key lines <<<"$keys"
  [[ $(grep -Ec "\"$key\":[0-9]" "$work/bench") == "$lines" ]] || fail "bench --decode: $key is not in $lines lines: $(cat "$work/bench")"
done
[[ $(grep -c '"agreement":\[[01].[0-9]*,[01].[0-9]*\],"sum_min_p_q":\[[01].[0-9]*,[01].[0-9]*\]' "$work/bench") == 3 ]] ||
  fail "bench --decode: how depths agree: $(cat "$work/bench")"
grep -q '"past_trained_window":true' "$work/bench" && fail "bench --decode: 24 tokens are past a window of 32"
# Agreement over the text is a fact of model and text, whatever decodes; greedy, the two measures are one.
agreement() { sed -nE 's/.*"agreement":\[([^]]*)\],"sum_min_p_q":\[([^]]*)\].*/\1 \2/p' "$work/bench"; }
greedy=(bench --decode --model "$model" --data "$work/text.txt" --temperature 0 --prompts 2)
"$mtpx" "${greedy[@]}" --validation 1 --context 20 --tokens 8 >"$work/bench"
read -r first second <<<"$(agreement)"
[[ -n $first && $first == "$second" ]] || fail "bench --decode: greedy, depths agree $first, sum min(p, q) is $second"
grep -q '"past_trained_window":false' "$work/bench" || fail "bench --decode: 28 tokens are past a window of 32"
"$mtpx" "${greedy[@]}" --context 16 --tokens 80 >"$work/bench"
[[ $(grep -c '"repeats":true,"past_trained_window":true' "$work/bench") == 6 ]] ||
  fail "bench --decode: a text that goes round in circles is not marked: $(cat "$work/bench")"
# Several side by side.
"$mtpx" bench --decode --model "$model" --context 16 --tokens 8 --sequences 1,3 >"$work/bench"
[[ $(grep -Ec '^\{"mode":"sequences","sequences":[13],"context":16,.*"prompt_tokens_per_s":[0-9].*"tokens_per_s":[0-9].*"read_share":[0-9]' \
  "$work/bench") == 2 ]] || fail "bench --decode --sequences: $(cat "$work/bench")"
expect 2 "mtpx: [bench] --context 126 and --tokens 8: max_position_embeddings = 128" bench --decode --model "$model" \
  --context 126 --tokens 8 --sequences 1
# Prompts of a file; and where there is no text to take them from.
printf 'the quick\n\nthe lazy dog jumps\n' >"$work/few"
bench=("${bench[@]:0:6}")
"$mtpx" "${bench[@]}" --model "$model" --prompts "$work/few" --temperature 0 >"$work/bench"
grep -q '"context":18,"prompts":2' "$work/bench" || fail "bench --decode --prompts FILE: $(cat "$work/bench")"
echo x >"$work/few"
expect 2 "mtpx: [bench] --prompts $work/few: has no line of two tokens at least" "${bench[@]}" --model "$model" --prompts "$work/few"
bench+=(--prompts 2)
expect 2 "mtpx: [bench] --context 16 and --tokens 8: the text that is held out has no window of 25 tokens" \
  "${bench[@]}" --model "$model" --data "$work/few"
"$mtpx" "${bench[@]}" --model "$model" --temperature 0.8 --draft-tokens drawn --verify block >"$work/bench"
[[ $(sed -E 's/.*"draft":("auto"|[0-9]+),.*/\1/' "$work/bench" | tr '\n' ' ') == '0 1 2 3 4 ' ]] ||
  fail "bench --decode by blocks: $(cat "$work/bench")"
"$mtpx" "${bench[@]}" --model "$work/main" --data "$work/text.txt" >"$work/bench"
[[ $(wc -l <"$work/bench") == 3 ]] || fail "bench --decode without modules: $(cat "$work/bench")"
"$mtpx" "${bench[@]}" --model "$model" --data "$work/text.txt" --draft-vocabulary 30 >"$work/bench"
[[ $(grep -c '"draft_vocabulary":30' "$work/bench") == 3 ]] || fail "bench --decode --draft-vocabulary: $(cat "$work/bench")"
expect 2 "mtpx: [bench] --context 120 and --tokens 8: max_position_embeddings = 128" bench --decode --model "$model" --context 120 --tokens 8
refused "mtpx: --context requires --decode" bench --context 16
refused "mtpx: --verify requires --decode" bench --verify block

[[ $failures == 0 ]] && echo "program: all checks of generate passed"
exit $((failures > 0))
