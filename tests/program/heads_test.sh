#!/usr/bin/env bash
# The designs of multi-token prediction through the program: train, generate, score and compare take any of them.
# Usage: heads_test.sh PATH_OF_MTPX [DEVICE]
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"

train=(train --config "$work/config.json" --data "$work/text.txt" --seq 32 --batch 4 --steps 6 --prompt '')

# Every design: drafted text is plain text, a folder says which it is, score reads it.
for heads in sequential repeated parallel linear; do
  "$mtpx" "${train[@]}" --heads "$heads" --out "$work/$heads" >/dev/null || fail "train --heads $heads"
  grep -q "\"mtpx_heads\": \"$heads\"" "$work/$heads/config.json" || fail "$heads: config.json does not say so"
  for draft in 0 1 2 auto; do
    "$mtpx" generate --model "$work/$heads" --prompt 'the quick' --max-tokens 40 --draft "$draft" >"$work/text.$draft" 2>/dev/null
    cmp "$work/text.0" "$work/text.$draft" || fail "$heads: --draft $draft changes the text"
  done
  "$mtpx" score --model "$work/$heads" --data "$work/text.txt" --seq 32 >"$work/score" || fail "score $heads"
  # The total: lambda / D times the depths' sum where depths are sequential, the same with weights 1 to 0.6 where one
  # module is repeated, the plain sum otherwise.
  weights='1 1'
  if [[ $heads == sequential ]]; then weights='0.15 0.15'; fi
  if [[ $heads == repeated ]]; then weights='0.1875 0.1125'; fi
  sed -En 's/^\{"loss":([0-9.]+),"ce":\[([0-9.]+),([0-9.]+),([0-9.]+)\].*$/\1 \2 \3 \4/p' "$work/score" |
    awk -v w="$weights" '{split(w, a, " "); d = $1 - ($2 + a[1] * $3 + a[2] * $4); exit !(NF == 4 && d < 1e-9 && d > -1e-9)}' ||
    fail "score $heads: loss is not the weighted sum: $(cat "$work/score")"
done
expect 2 "mtpx: [generate] draft = 3: this model's 2 heads draft a token each: heads that do not read each other cannot run again on their own output" \
  generate --model "$work/parallel" --prompt x --draft 3

# A finished model learns to draft: not a bit of it changes.
"$mtpx" "${train[@]}" --depth 0 --out "$work/plain" >/dev/null
"$mtpx" "${train[@]:0:1}" --init "$work/plain" --data "$work/text.txt" --seq 32 --batch 4 --steps 6 --prompt '' \
  --depth 2 --heads parallel --freeze-trunk --out "$work/frozen" >/dev/null || fail "train --freeze-trunk"
"$mtpx" "${train[@]:0:1}" --init "$work/frozen" --data "$work/text.txt" --seq 32 --batch 4 --steps 1 --prompt '' \
  --freeze-trunk --export-no-mtp --out "$work/again" >/dev/null || fail "train --init --export-no-mtp"
# tensors FILE: names, shapes and bytes, without the metadata, which has the configuration.
tensors() {
  local header
  header=$(od -An -tu8 -N 8 "$1")
  head -c $((8 + header)) "$1" | tail -c +9 | sed 's/.*"mtpx_xxh64":"[0-9a-f]*"[^}]*},//; s/ *$//'
  tail -c +$((9 + header)) "$1"
}
cmp <(tensors "$work/plain/model.safetensors") <(tensors "$work/again/model.safetensors") || fail "--freeze-trunk changed the main model"
[[ $(tensors "$work/plain/model.safetensors" | wc -c) -gt 50000 ]] || fail "a model without tensors"
expect 2 "mtpx: [train] the main model is frozen and the depth is 0: nothing would train" \
  train --init "$work/plain" --data "$work/text.txt" --seq 32 --batch 4 --steps 1 --freeze-trunk --out "$work/none"
expect 2 "mtpx: --freeze-trunk requires --init" "${train[@]}" --freeze-trunk --out "$work/none"

# Depths learn from the main head, on the model's own text, into a sidecar; the main model's folder is not touched. What
# the metadata of a sidecar says of a main model is a checksum of all its tensors.
distill=(distill --data "$work/text.txt" --seq 32 --batch 4 --steps 2 --prompt '')
main_of() { grep -aoE '"mtpx_main":"[0-9a-f]{16}"' "$work/$1/mtp.safetensors"; }
before=$(cksum <"$work/sequential/model.safetensors")
"$mtpx" "${distill[@]}" --model "$work/sequential" --generate 500 --prompt-tokens 8 --sidecar --depth 3 --heads repeated \
  --copy --out "$work/side" >"$work/said" || fail "distill --generate --sidecar"
grep -q '^own text: 500 tokens of 500, ' "$work/said" || fail "distill --generate: $(cat "$work/said")"
[[ $(cksum <"$work/sequential/model.safetensors") == "$before" ]] || fail "distill changed the model that it was given"
[[ ! -e $work/side/model.safetensors ]] || fail "distill --sidecar wrote a model"
"$mtpx" generate --model "$work/sequential" --mtp "$work/side" --prompt 'the quick' --max-tokens 40 --draft 3 \
  --temperature 1 --json >"$work/drafted" 2>/dev/null || fail "generate --mtp"
grep -q '"draft_n":[1-9]' "$work/drafted" || fail "generate --mtp drafts nothing: $(cat "$work/drafted")"
"$mtpx" generate --model "$work/sequential" --prompt 'the quick' --max-tokens 40 --draft 0 --temperature 1 --json \
  >"$work/drawn" 2>/dev/null
text_of() { grep -oE '"text":"([^"\\]|\\.)*"' "$work/$1"; }
[[ $(text_of drawn) == "$(text_of drafted)" && -n $(text_of drawn) ]] || fail "generate --mtp changes the text"
"$mtpx" score --model "$work/sequential" --mtp "$work/side" --data "$work/text.txt" --seq 32 >"$work/score" || fail "score --mtp"
[[ $(grep -oE '"rows":\[[0-9,]+\]' "$work/score" | tr -cd , | wc -c) == 3 ]] || fail "score --mtp: not three depths"

# Into a folder: the main model is the one that it was, told by a sidecar that is made for it.
"$mtpx" "${distill[@]}" --model "$work/sequential" --mtp "$work/side" --distill kl --out "$work/distilled" >/dev/null ||
  fail "distill --out"
"$mtpx" "${distill[@]}" --model "$work/distilled" --distill ce --distill-share 0.5 --sidecar --out "$work/again_side" \
  >/dev/null || fail "distill of what distill wrote"
[[ $(main_of side) == "$(main_of again_side)" && -n $(main_of side) ]] || fail "distill changed the main model"
for model in parallel repeated; do
  status=0
  "$mtpx" generate --model "$work/$model" --mtp "$work/side" --prompt x >/dev/null 2>"$work/stderr" || status=$?
  [[ $status == 3 && $(cat "$work/stderr") == "mtpx: [sidecar] $work/side/mtp.safetensors: was made for the main model "*"; $work/$model/model.safetensors is another one, "* ]] ||
    fail "a sidecar of another main model: $status, $(cat "$work/stderr")"
done
expect 2 "mtpx: [train] --out $work/side: a sidecar is there already; --force replaces it" \
  "${distill[@]}" --model "$work/sequential" --sidecar --out "$work/side"

# A comparison: every design and seed, a page without anything from elsewhere, drawn again from its JSON.
compare=(compare --config "$work/config.json" --data "$work/text.txt" --seq 32 --steps 2 --seeds 2 --evaluations 2
  --eval-windows 4 --prompts 1 --context 8 --tokens 8 --out "$work/report")
"$mtpx" "${compare[@]}" >"$work/compared" || fail "compare"
count() { grep -oE "$1" "$work/report/$2" | wc -l; }
[[ $(grep -oE '^ +"name": "[a-z ]+"' "$work/report/report.json" | sed 's/.*: //' | tr '\n' ' ') == \
  '"equal trunk" "baseline" "sequential" "decay" "repeated" "detached" "parallel" "linear" "equal parameters" "sequential" "parallel" ' ]] ||
  fail "compare: other designs: $(grep -oE '^ +"name": "[a-z ]+"' "$work/report/report.json")"
[[ $(count '"seed": [12]$|"seed": [12],' report.json) == 18 ]] || fail "compare: not two runs of nine designs"
[[ $(count '"step": [12]$|"step": [12],' report.json) == 36 ]] || fail "compare: not two validations a run"
[[ $(count '"verdict": "[^"]+"' report.json) == 9 ]] || fail "compare: not nine claims"
[[ $(count '<svg' report.html) == 8 ]] || fail "compare: not eight drawings"
grep -q 'prefers-color-scheme:dark' "$work/report/report.html" || fail "compare: no colours for dark grounds"
grep -qE '(src|href)=|@import|url\(' "$work/report/report.html" && fail "compare: the page needs another file"
grep -q 'Drafts speed up decoding' "$work/compared" || fail "compare: $(cat "$work/compared")"
cp "$work/report/report.html" "$work/first.html"
"$mtpx" compare --redraw --out "$work/report" >/dev/null
cmp "$work/first.html" "$work/report/report.html" || fail "compare --redraw draws something else"
expect 2 "mtpx: [compare] --out $work/report: a report is there already; --force replaces it" "${compare[@]}"
expect 2 "mtpx: [compare] --context 64 and --tokens 128: --seq = 32, max_position_embeddings = 128" \
  compare --config "$work/config.json" --data "$work/text.txt" --seq 32 --out "$work/none"

[[ ! -e $work/none ]] || fail "a refused run left $(ls "$work/none")"
[[ $failures == 0 ]] && echo "program: all checks passed"
exit $((failures > 0))
