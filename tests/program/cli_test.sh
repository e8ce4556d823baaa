#!/usr/bin/env bash
# The program as a person meets it: what it writes, what it says about bad input, and its exit codes.
# Usage: tests/program/cli_test.sh PROGRAM [DEVICE]
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"
small=(--config "$work/config.json" --data "$work/text.txt" --seq 32 --batch 4 --prompt 'the quick')

# Training writes a folder; the same seed gives the same bytes for any number of threads.
"$mtpx" train "${small[@]}" --steps 30 --threads 1 --out "$work/one" >"$work/log"
"$mtpx" train "${small[@]}" --steps 30 --threads 2 --out "$work/two" >/dev/null
cmp "$work/one/model.safetensors" "$work/two/model.safetensors" || fail "weights depend on the number of threads"
if [[ $device == cuda ]]; then
  "$1" train "${small[@]}" --steps 30 --dtype float32 --device cpu --out "$work/host" >/dev/null
  cmp "$work/one/model.safetensors" "$work/host/model.safetensors" || fail "a GPU's weights are not the host's"
fi
for file in config.json model.safetensors metrics.jsonl; do [[ -s $work/one/$file ]] || fail "$file is missing"; done
[[ $(grep -c '"validation_loss"' "$work/one/metrics.jsonl") == 5 ]] || fail "metrics.jsonl: $(grep -c validation "$work/one/metrics.jsonl") validations"
grep -q 'step 30/30 (100%)  loss [0-9.]* [0-9.]* [0-9.]*  lr .* norm .* tok/s\(  MFU [0-9.]*%\)\?  ETA 0m0s' "$work/log" || fail "progress line: $(tail -n 5 "$work/log")"
grep -q 'bits per byte' "$work/log" || fail "no bits per byte in the log"

# Generation: drafts change the speed only, here with fewer, as many and more drafts than modules.
generate=(generate --model "$work/one" --prompt 'the quick' --max-tokens 90)
"$mtpx" "${generate[@]}" --draft 0 >"$work/plain" 2>/dev/null
for draft in 1 2 4; do
  "$mtpx" "${generate[@]}" --draft $draft >"$work/drafted" 2>"$work/figures"
  cmp "$work/plain" "$work/drafted" || fail "--draft $draft changed the text"
  grep -q 'mean length' "$work/figures" || fail "--draft $draft: no figures"
done
"$mtpx" "${generate[@]}" --draft 2 --json >"$work/json"
for key in text tokens tokens_per_s passes tokens_per_pass drafts accepted acceptance mean_length; do
  grep -q "\"$key\":" "$work/json" || fail "--json lacks $key"
done
"$mtpx" "${generate[@]}" --temperature 0.8 --seed 5 >"$work/a" 2>/dev/null
"$mtpx" "${generate[@]}" --temperature 0.8 --seed 5 >"$work/b" 2>/dev/null
cmp "$work/a" "$work/b" || fail "the same seed gave two texts"
"$mtpx" "${generate[@]}" 2>/dev/null | head -c 3 >/dev/null || fail "a closed pipe is no failure"

# A model to start from; a model that must not be overwritten.
"$mtpx" train "${small[@]:2}" --init "$work/one" --steps 1 --out "$work/three" >/dev/null
expect 2 "mtpx: [train] --out $work/one: a model is there already; --force replaces it" train "${small[@]}" --steps 1 --out "$work/one"

# bench prints one line of JSON.
"$mtpx" bench --config "$work/config.json" --batch 1 --seq 8 --steps 1 >"$work/json"
figures=(step_ms tokens_per_s first_loss peak_gib params gflops)
if [[ $device == cuda ]]; then figures+=(gpu reserved_gib matrix_share); else figures+=(threads fma_share); fi
for key in "${figures[@]}"; do
  grep -q "\"$key\":" "$work/json" || fail "bench lacks $key"
done

# bf16 trains, and what it wrote can be read in any type; drafts change nothing here either.
"$mtpx" train "${small[@]}" --dtype bf16 --steps 30 --out "$work/half" >"$work/log" || fail "train --dtype bf16"
grep -q '"torch_dtype": "bfloat16"' "$work/half/config.json" || fail "--dtype bf16: config.json says $(grep dtype "$work/half/config.json")"
grep -q 'step 30/30 (100%)' "$work/log" || fail "--dtype bf16: $(tail -n 5 "$work/log")"
for draft in 0 1 2; do
  "$mtpx" generate --dtype bf16 --model "$work/half" --prompt 'the quick' --max-tokens 60 --draft $draft >"$work/text.$draft" 2>/dev/null
  cmp "$work/text.0" "$work/text.$draft" || fail "--dtype bf16 --draft $draft changed the text"
done
for type in bf16 float32 float64; do
  "$mtpx" score --dtype $type --model "$work/half" --data "$work/text.txt" --seq 32 >"$work/score.$type" || fail "score --dtype $type"
done
sed -s 's/{"loss":\([0-9.]*\),.*/\1/' "$work"/score.* | sort -n | awk 'NR == 1 {least = $1} END {exit !($1 - least < 0.02 * least)}' ||
  fail "types do not agree: $(cat "$work"/score.*)"
"$mtpx" bench --config "$work/config.json" --batch 1 --seq 8 --steps 1 --dtype bf16 | grep -q '"dtype":"bf16"' || fail "bench --dtype bf16"
for run in one half; do
  [[ $(grep -c '"gradient_norm"' "$work/$run/metrics.jsonl") == 30 ]] || fail "$run/metrics.jsonl has not a line a step"
done

# Devices that are not there.
if [[ -z $device ]]; then
  expect 7 'mtpx: [device] --device cuda: this build has no kernels for GPUs; build with `cmake --preset cuda`' \
    train "${small[@]}" --out "$work/none" --device cuda
fi
expect 2 "mtpx: --device: tpu not in {auto,cpu,cuda}" generate --model "$work/one" --prompt x --device tpu
expect 2 "mtpx: --dtype: float64 not in {float32,bf16}" generate --model "$work/one" --prompt x --dtype float64

# Every subcommand has a complete help.
for command in train generate bench; do
  "$mtpx" $command --help >"$work/help" || fail "$command --help"
  grep -q -- '--threads' "$work/help" || fail "$command --help is not complete"
done

# Bad input: one clear text, the right exit code, and nothing written.
out=(--out "$work/none")
expect 3 "mtpx: [data] $work/missing.txt: no such file or folder" train --data "$work/missing.txt" "${out[@]}"
: >"$work/empty.txt"
expect 3 "mtpx: [data] $work/empty.txt: the file is empty" train --data "$work/empty.txt" "${out[@]}"
echo "too short" >"$work/short.txt"
expect 3 "mtpx: [data] the text needs at least 258 tokens (seq 256 + 1 + depth 1), found 10" train --data "$work/short.txt" "${out[@]}"
expect 2 "mtpx: [data] seq must be larger than depth, they are 2 and 2" train --config "$work/config.json" --data "$work/text.txt" --seq 2 "${out[@]}"
sed 's/"qk_rope_head_dim": 8/"qk_rope_head_dim": 7/; s/"num_experts_per_tok": 2/"num_experts_per_tok": 9/' "$work/config.json" >"$work/bad.json"
expect 2 "$(printf 'mtpx: [config] %s: these values do not add up\n  qk_rope_head_dim = 7: must be even, it is rotated in pairs\n  num_experts_per_tok = 9, n_routed_experts = 4: a token takes an expert once' "$work/bad.json")" \
  train --config "$work/bad.json" --data "$work/text.txt" "${out[@]}"
expect 3 "mtpx: [config] $work/missing.json: cannot be opened: No such file or directory" train --config "$work/missing.json" "${out[@]}"
expect 2 "mtpx: [config] no preset is called \"huge\"; there are nano, tiny, deep, base and small" train --preset huge "${out[@]}"
expect 2 "mtpx: [train] seq = 4096: must not exceed max_position_embeddings = 2048" train --seq 4096 "${out[@]}"
# Of a number that is out of range CLI11 tells in its own words, another version in others.
status=0
"$mtpx" train --steps 0 "${out[@]}" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
[[ $status == 2 && $(cat "$work/stderr") =~ ^"mtpx: --steps: Value 0 not in range "\[?1\ (to|-)\ 1073741824\]?$ ]] ||
  fail "--steps 0: exit code $status, said '$(cat "$work/stderr")'"
expect 2 "mtpx: --out is required" train
expect 4 "mtpx: [train] --out $work/text.txt/x: cannot be made: Not a directory" train "${small[@]}" --out "$work/text.txt/x"
expect 2 "mtpx: [generate] --prompt is empty" generate --model "$work/one" --prompt ''
expect 2 "mtpx: [generate] --prompt is not valid UTF-8" generate --model "$work/one" --prompt $'\xff'
expect 2 "mtpx: [generate] --prompt has 130 tokens; max_position_embeddings = 128 leaves room for 127" \
  generate --model "$work/one" --prompt "$(printf 'x%.0s' {1..130})"
expect 3 "mtpx: [config] $work/nowhere/config.json: cannot be opened: No such file or directory" generate --model "$work/nowhere" --prompt x
expect 2 "mtpx: [sampling] top_p = 0: must be above 0 and at most 1" generate --model "$work/one" --prompt x --top-p 0 --temperature 1

mkdir "$work/short" && sed 's/"max_position_embeddings": 64/"max_position_embeddings": 8/' "$(dirname "$0")/../golden/dense/config.json" >"$work/short/config.json"
cp "$(dirname "$0")/../golden/dense/model.safetensors" "$work/short/"
# Tokens learnt from the text: they lie beside the model, which writes text by them and goes on with the same ones.
"$mtpx" train --config "$work/config.json" --data "$work/text.txt" --steps 4 --seq 32 --vocab-size 300 --out "$work/bpe" >"$work/log" ||
  fail "train --vocab-size: $(cat "$work/log")"
grep -Eq ' documents, [0-9]+ tokens of 300, [0-9]+ to train on; ' "$work/log" || fail "train --vocab-size says nothing of tokens: $(cat "$work/log")"
grep -Eq 'validation at step 4: [0-9.]+ bits per byte' "$work/log" || fail "train --vocab-size: no bits per byte"
"$mtpx" generate --model "$work/bpe" --prompt 'the quick brown fox number ' --max-tokens 9 --draft 2 --json >"$work/json" 2>"$work/stderr" ||
  fail "generate with tokens: $(cat "$work/stderr")"
grep -q '"prompt_tokens":[1-9],' "$work/json" || fail "a prompt of common words takes few tokens: $(cat "$work/json")"
"$mtpx" score --model "$work/bpe" --data "$work/text.txt" --seq 32 | grep -Eq '"bits_per_byte":[0-9.]+\}$' || fail "score with tokens"
"$mtpx" train --init "$work/bpe" --data "$work/text.txt" --steps 1 --seq 32 --out "$work/bpe2" >"$work/log" || fail "train --init with tokens"
cmp "$work/bpe/tokenizer.json" "$work/bpe2/tokenizer.json" || fail "the tokenizer changed on the way"
# So do the other files that say how its texts are written; flags come before what they say, which is told.
echo '{ "chat_template": null }' >"$work/bpe/tokenizer_config.json"
echo '{{ messages[0].content }}' >"$work/bpe/chat_template.jinja"
echo '{"do_sample": true, "temperature": 0.7, "top_p": 0.9}' >"$work/bpe/generation_config.json"
"$mtpx" train --init "$work/bpe" --data "$work/text.txt" --steps 1 --seq 32 --save-every 1 --force --out "$work/bpe2" >"$work/log" || fail "train --init with all files"
for file in tokenizer_config.json chat_template.jinja generation_config.json; do
  for folder in "$work/bpe2" "$work/bpe2/checkpoints"/step-*; do cmp "$work/bpe/$file" "$folder/$file" || fail "train --init: $file in $folder"; done
done
write=(generate --model "$work/bpe" --prompt 'the quick' --max-tokens 30 --draft 0)
"$mtpx" "${write[@]}" >"$work/makers" 2>"$work/stderr" || fail "generate as generation_config.json says"
[[ $(head -n 1 "$work/stderr") == "notice: temperature 0.7, top-p 0.9, as generation_config.json says; flags come before it" ]] ||
  fail "generation_config.json: said '$(cat "$work/stderr")'"
rm "$work/bpe/generation_config.json"
"$mtpx" "${write[@]}" --temperature 0.7 --top-p 0.9 2>/dev/null | cmp - "$work/makers" || fail "generation_config.json is another sampling than flags"
"$mtpx" "${write[@]}" >"$work/greedy" 2>/dev/null
cp "$work/bpe2/generation_config.json" "$work/bpe"
"$mtpx" "${write[@]}" --temperature 0 2>"$work/stderr" | cmp - "$work/greedy" || fail "--temperature 0 is not greedy"
! grep -q notice "$work/stderr" || fail "--temperature 0 with: $(cat "$work/stderr")"
echo "{\"eos_token_id\": [$(seq -s , 0 299)]}" >"$work/bpe/generation_config.json"
"$mtpx" "${write[@]}" --json 2>/dev/null | grep -q '"tokens":1,.*"ended":"end token"' || fail "the end tokens of generation_config.json end nothing"
rm "$work/bpe/generation_config.json"
"$mtpx" train --config "$work/config.json" --tokenizer "$work/bpe/tokenizer.json" --vocab-size 320 --data "$work/text.txt" --steps 1 --seq 32 \
  --out "$work/bpe3" >"$work/log" || fail "train --tokenizer"
cmp "$work/bpe/tokenizer.json" "$work/bpe3/tokenizer.json" || fail "--tokenizer is not copied"
expect 2 "mtpx: [tokenizer] $work/bpe/tokenizer.json: has ids up to 299; the model's vocab_size is 256" \
  train --config "$work/config.json" --tokenizer "$work/bpe/tokenizer.json" --data "$work/text.txt" --steps 1 --out "$work/bpe4"

# One matrix for embedding and head: written once, read again, and what goes on from it is tied.
"$mtpx" train "${small[@]}" --tie-word-embeddings --steps 4 --out "$work/tied" >"$work/log" || fail "train --tie-word-embeddings"
grep -aq lm_head.weight "$work/tied/model.safetensors" && fail "a tied head was written"
(($(grep -oE '[0-9]+ parameters' "$work/log" | cut -d ' ' -f 1) + 256 * 32 == $("$mtpx" train "${small[@]}" --steps 4 --out "$work/none" --dry-run |
  sed -nE 's/^parameters: ([0-9]+),.*/\1/p'))) || fail "a tied model has $(grep parameters "$work/log")"
"$mtpx" train "${small[@]:2}" --init "$work/tied" --steps 1 --out "$work/tied2" >/dev/null || fail "train --init of a tied model"
grep -q '"tie_word_embeddings": true' "$work/tied2/config.json" || fail "the model is not tied any more"
for draft in 0 2; do "$mtpx" generate --model "$work/tied" --prompt 'the quick' --max-tokens 40 --draft $draft 2>/dev/null >"$work/tied.$draft"; done
cmp "$work/tied.0" "$work/tied.2" || fail "drafts changed the text of a tied model"
expect 2 "mtpx: --init excludes --tie-word-embeddings" train "${small[@]:2}" --init "$work/one" --tie-word-embeddings --steps 1 --out "$work/none"

# Scores: the same losses whatever the batch, from text and from tokens; a dump has what was asked for.
golden=$(dirname "$0")/../golden/depth3
score=(score --model "$golden" --tokens "$golden/golden.safetensors")
"$mtpx" "${score[@]}" --dtype float64 --dump "$work/dump" --gradients >"$work/score"
grep -Eq '^\{"loss":5.0387[0-9]*,"ce":\[3.8851[0-9]*,3.8466[0-9]*,3.7354[0-9]*,3.9537[0-9]*\],"accuracy":\[[^]]*\],"rows":\[22,20,18,16\],"bits_per_byte":null\}$' "$work/score" ||
  fail "score: $(cat "$work/score")"
for name in logits.0 logits.3 grad.lm_head.weight grad.model.layers.4.mlp.experts.5.up_proj.weight; do
  grep -aq "\"$name\":{\"dtype\":\"F64\"" "$work/dump" || fail "score --dump lacks $name"
done
grep -aq e_score_correction_bias "$work/dump" && fail "score --gradients: a router's bias has no gradient"
"$mtpx" "${score[@]}" --lambda 0 | grep -Eq '^\{"loss":3.8851' || fail "score --lambda 0 is not the main head's loss"
"$mtpx" "${score[@]}" --dtype float64 --batch 1 --no-mmap --dump "$work/dump1" --gradients | cut -c1-12 | cmp - <(cut -c1-12 "$work/score") ||
  fail "score --batch 1 gives another loss"
# The reference, whatever the device under test: the same loss to ten digits.
"$1" "${score[@]}" --device reference --dtype float64 --dump "$work/dump2" --gradients | cut -c1-20 | cmp - <(cut -c1-20 "$work/score") ||
  fail "score --device reference gives another loss"
"$1" "${score[@]}" --device reference | cut -c1-20 | cmp - <(cut -c1-20 "$work/score") || fail "score --device reference computes in float64"
[[ $("$1" "${score[@]}" --device reference --dtype bf16 2>&1) == "mtpx: [device] --device reference: computes in float64, not in bf16" ]] ||
  fail "score --device reference --dtype bf16"
[[ $("$1" generate --model "$golden" --prompt x --device reference 2>&1) == "mtpx: --device: reference not in {auto,cpu,cuda}" ]] ||
  fail "generate --device reference"
"$mtpx" score --model "$work/one" --data "$work/text.txt" --seq 32 >"$work/score"
grep -Eq '"rows":\[[0-9]+,[0-9]+,[0-9]+\],"bits_per_byte":[0-9.]+\}$' "$work/score" || fail "score --data: $(cat "$work/score")"
expect 2 "mtpx: --dump requires --tokens" score --model "$golden" --dump "$work/none"
expect 2 "mtpx: [tokenizer] $golden/tokenizer.json: not there, and vocab_size = 40: text is read as bytes only with a vocabulary of 256" score --model "$golden"
expect 2 "mtpx: [score] --seq 129: max_position_embeddings = 128" score --model "$work/one" --seq 129
expect 3 "mtpx: [safetensors] $golden/model.safetensors: has no tensor \"tokens\"" score --model "$golden" --tokens "$golden/model.safetensors"
expect 3 "mtpx: [score] --tokens $golden/../dense/golden.safetensors: tokens has T = 13; max_position_embeddings = 8" \
  score --model "$work/short" --tokens "$golden/../dense/golden.safetensors"
expect 4 "mtpx: [safetensors] $work/nowhere/dump: cannot be created: No such file or directory" "${score[@]}" --dump "$work/nowhere/dump"

# Without its MTP layers a model still opens, here and elsewhere; --init goes on from a folder.
"$mtpx" train --init "$work/one" --data "$work/text.txt" --seq 32 --batch 4 --steps 1 --prompt '' --export-no-mtp --out "$work/main" >/dev/null
grep -q '"num_nextn_predict_layers": 0' "$work/main/config.json" || fail "--export-no-mtp: config.json has a depth"
"$mtpx" generate --model "$work/main" --prompt 'the' --max-tokens 3 >/dev/null 2>&1 || fail "--export-no-mtp: does not open"

[[ ! -e $work/none ]] || fail "a refused run left $(ls "$work/none")"

[[ $failures == 0 ]] && echo "program: all checks passed"
exit $((failures > 0))
