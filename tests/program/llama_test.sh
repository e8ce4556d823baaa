#!/usr/bin/env bash
# What llama.cpp computes and writes of our GGUF files, beside us. Configured with -DMTPX_LLAMA=DIR, where
# `npm install node-llama-cpp@3.22.1` was run: its package has llama.cpp's libraries, and its sources as a git bundle.
# Usage: tests/program/llama_test.sh PROGRAM DIR   (CXX, git)
set -euo pipefail
packages=$(realpath "$2")/node_modules
libraries=$packages/@node-llama-cpp/linux-x64/bins/linux-x64
golden=$(realpath "$(dirname "$0")/../golden")
here=$(realpath "$(dirname "$0")")
if [[ ! -e $libraries ]]; then
  echo "skipped: $2 has no node-llama-cpp for this machine"
  exit 77
fi
# shellcheck source=tests/program/common.sh
source "$here/common.sh" "$(realpath "$1")"

git clone -q "$packages/node-llama-cpp/llama/gitRelease.bundle" "$work/llama" 2>/dev/null
cd "$work"
llama() {  # llama OUT SOURCE INCLUDES...
  "${CXX:-c++}" -std=c++20 -O1 "${@:3}" -I llama/include -I llama/src -I llama/common -I llama/ggml/include -I llama/vendor "$2" \
    -o "$1" "$libraries"/lib{llama-common,llama.v*,ggml.v*,ggml-base}.so -Wl,-rpath,"$libraries"
}
llama check "$here/llama_check.cpp" -I "$here/../../include"
llama speculative llama/examples/speculative-simple/speculative-simple.cpp

# Logits of models of every kind, against transformers': the main head's, and the module's where there is one.
for model in "$golden"/*/config.json; do
  model=$(dirname "$model")
  name=$(basename "$model")
  "$mtpx" convert --model "$model" --no-tokenizer --type f32 --out "$name.gguf" >/dev/null 2>notices
  errors=$(./check logits "$libraries" "$name.gguf" "$model/golden.safetensors")
  echo "$name: relative errors of llama.cpp's logits $errors, bound 1e-5"
  grep -q "written without MTP" notices && heads=1 || heads=2
  awk -v heads="$heads" '{for (i = 1; i <= NF; ++i) if (!($i < 1e-5)) exit 1; exit NF != heads}' <<<"$errors" || fail "$name: $errors"
done
[[ $(./check load "$libraries" "$golden/tiny.gguf" -) == "3 ids" ]] || fail "tiny.gguf"

# A model that has learnt something writes the same, plain and drafted.
"$mtpx" train --config "$here/llama_config.json" --data "$here/../../docs" --seq 96 --batch 8 --steps 150 --out model >train.log
for type in f32 bf16 q8_0; do "$mtpx" convert --model model --type $type --out model.$type.gguf >>train.log; done
printf 'a\t\r\n\x01 \xc3\xa9\\x00 "' >bytes.txt
[[ $(./check ids "$libraries" model.f32.gguf bytes.txt) == "$("$mtpx" tokenize --tokenizer bytes --text bytes.txt --print)" ]] ||
  fail "ids of bytes"
mapfile -t prompts < <(grep -h -o '[A-Z][a-z ]\{24\}' "$here"/../../docs/*.md | awk 'NR % 16 == 0' | head -n 20)
[[ ${#prompts[@]} == 20 ]] || fail "${#prompts[@]} prompts"
tokens=64
declare -A equal=([f32]=0 [bf16]=0 [q8_0]=0)
drafts=0 accepted=0 theirs=0 their_drafts=0
for prompt in "${prompts[@]}"; do
  plain=(generate --model model --prompt "$prompt" --max-tokens "$tokens" --draft 1)
  "$mtpx" "${plain[@]}" >ours.txt 2>/dev/null
  "$mtpx" "${plain[@]}" --json >ours.json 2>/dev/null
  for type in f32 bf16 q8_0; do
    ./check greedy "$libraries" model.$type.gguf "$tokens" "$prompt" >theirs.txt
    if cmp -s ours.txt theirs.txt; then equal[$type]=$((equal[$type] + 1)); fi
  done
  for ((attempt = 0; attempt < 9; ++attempt)); do  # what it says goes through a thread, which may be ended too early
    (cd "$libraries" && "$work/speculative" -m "$work/model.f32.gguf" -p "$prompt" -n $((tokens - 1)) --temp 0 --spec-type draft-mtp \
      --spec-draft-n-max 1 --spec-draft-p-min 0 -ctk f32 -ctv f32 -fa off -c 512 -t 1 >"$work/speculative.txt" 2>"$work/speculative.log")
    if grep -q n_accept speculative.log; then break; fi
  done
  text=$(sed -z 's/^\n*//; s/\n*$//' speculative.txt) want=$(sed -z 's/\n*$//' ours.txt)
  # A pass may end the text a token later than ours.
  [[ $text == "$want"* || $want == "$text"* ]] || fail "draft-mtp wrote '$text' instead of '$want'"
  [[ ${#text} -ge $((${#want} - 2)) ]] || fail "draft-mtp wrote less: '$text'"
  drafts=$((drafts + $(sed 's/.*"draft_n":\([0-9]*\).*/\1/' ours.json)))
  accepted=$((accepted + $(sed 's/.*"draft_n_accepted":\([0-9]*\).*/\1/' ours.json)))
  their_drafts=$((their_drafts + $(sed -n 's/.*n_drafted = //p' speculative.log)))
  theirs=$((theirs + $(sed -n 's/.*n_accept  = //p' speculative.log)))
done
echo "equal texts of ${#prompts[@]}: f32 ${equal[f32]}, bf16 ${equal[bf16]}, q8_0 ${equal[q8_0]}"
echo "accepted: ours $accepted of $drafts, llama.cpp's $theirs of $their_drafts"
[[ ${equal[f32]} == "${#prompts[@]}" ]] || fail "f32: other texts"
for type in bf16 q8_0; do [[ ${equal[$type]} -ge 10 ]] || fail "$type: more than rounding"; done
awk -v a="$accepted" -v b="$drafts" -v c="$theirs" -v d="$their_drafts" 'BEGIN {e = a / b - c / d; exit !(e * e < 0.05 * 0.05)}' || fail "another acceptance"

[[ $failures == 0 ]] && echo "llama: all checks passed"
exit $((failures > 0))
