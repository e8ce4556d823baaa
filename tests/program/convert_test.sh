#!/usr/bin/env bash
# GGUF files and folders in 8 bits as a person makes them. What llama.cpp makes of the former: llama_test.sh.
# Usage: tests/program/convert_test.sh PROGRAM [DEVICE]
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"
golden=$(dirname "$0")/../golden
mixture=(convert --model "$golden/groups_yarn" --no-tokenizer)

"$mtpx" "${mixture[@]}" --threads 1 --out "$work/one.gguf" >"$work/log"
[[ $(cat "$work/log") == "$work/one.gguf: 56 tensors, bf16, with an MTP module, $(stat -c %s "$work/one.gguf") bytes" ]] || fail "said $(cat "$work/log")"
"$mtpx" "${mixture[@]}" --threads 2 --no-mmap --out "$work/two.gguf" >/dev/null
cmp "$work/one.gguf" "$work/two.gguf" || fail "the file depends on threads or on how weights are read"
for type in f32 f16 q8_0; do
  "$mtpx" "${mixture[@]}" --no-mtp --type $type --force --out "$work/two.gguf" >"$work/log"
  grep -q "two.gguf: 34 tensors, $type, no MTP module, " "$work/log" || fail "$type: $(cat "$work/log")"
done
cp "$work/two.gguf" "$work/kept.gguf"

expect 2 "mtpx: [convert] --out $work/two.gguf: is there already; --force replaces it" "${mixture[@]}" --out "$work/two.gguf"
expect 0 "notice: written without MTP, with which llama.cpp could not draft: it has one module, the model has 3" \
  convert --model "$golden/depth3" --no-tokenizer --out "$work/depth3.gguf"
expect 2 "mtpx: [tokenizer] $golden/dense/tokenizer.json: not there, and vocab_size = 40: text is read as bytes only with a vocabulary of 256" \
  convert --model "$golden/dense" --out "$work/none.gguf"
expect 3 "mtpx: [config] $work/missing/config.json: cannot be opened: No such file or directory" \
  convert --model "$work/missing" --no-tokenizer --out "$work/none.gguf"
expect 4 "mtpx: [gguf] $work/nowhere/x: cannot be created: No such file or directory" "${mixture[@]}" --out "$work/nowhere/x"
expect 4 "mtpx: [gguf] /dev/null: is not a regular file, and is not replaced" "${mixture[@]}" --force --out /dev/null
cp -r "$golden/groups_yarn" "$work/other"
sed -i 's/"beta_fast": 32.0/"beta_fast": 16.0/' "$work/other/config.json"
expect 0 "notice: llama.cpp computes this model with these options only: --yarn-beta-fast 16" \
  convert --model "$work/other" --no-tokenizer --out "$work/other.gguf"
sed -i 's/"n_group": 4/"n_group": 3/' "$work/other/config.json"
expect 2 "mtpx: [config] $work/other/config.json: these values do not add up
  n_routed_experts = 8, n_group = 3: the groups must be equally large" \
  convert --model "$work/other" --no-tokenizer --force --out "$work/two.gguf"
cmp "$work/two.gguf" "$work/kept.gguf" || fail "a refused run changed the file"
[[ ! -e $work/none.gguf ]] || fail "a refused run left a file"

# In 8 bits: drafts change no text, scores are those of the numbers that are decoded with, nothing is trained.
"$mtpx" train --preset nano --depth 1 --steps 2 --batch 1 --seq 16 --vocab-size 256 --data "$0" --out "$work/m" >/dev/null 2>&1
"$mtpx" quantize --model "$work/m" --out "$work/q" --block 2,64 --threads 1
"$mtpx" quantize --model "$work/m" --out "$work/q3" --block 2,64 --threads 3
cmp "$work/q/model.safetensors" "$work/q3/model.safetensors" || fail "weights in 8 bits depend on threads"
for draft in 0 2; do
  "$1" generate --model "$work/q" --prompt "fail" --max-tokens 20 --draft $draft --device cpu >"$work/text$draft" 2>/dev/null
done
cmp "$work/text0" "$work/text2" || fail "drafts change the text of a model in 8 bits"
"$1" score --model "$work/q" --data "$0" --seq 16 --device cpu | grep -q '"loss":' || fail "a model in 8 bits has no score"
for run in "train --init" "distill --generate 64 --model"; do # shellcheck disable=SC2086
  expect 2 "mtpx: [train] $work/q: weights in 8 bits (mtpx_int8) are not trained: begin with the model that they were made of" \
    $run "$work/q" --data "$0" --steps 1 --out "$work/none"
done
expect 2 "mtpx: [quantize] --out $work/q: has a model already; --force replaces it" quantize --model "$work/m" --out "$work/q"
expect 2 "mtpx: [int8] $work/q: its weights are in 8 bits already" quantize --model "$work/q" --out "$work/none"
[[ ! -e $work/none ]] || fail "a refused run left a folder"

[[ $failures == 0 ]] && echo "convert: all checks passed"
exit $((failures > 0))
