#!/usr/bin/env bash
# What the program says and leaves behind where files, disks, numbers or options are not what they should be: the table
# in docs/reliability.md. Usage: tests/program/faults_test.sh PROGRAM [DEVICE]
# FAULTS=FILE: the library of tests/support/file_faults.cpp, for files that shrink   EVERY=N: each N-th look at one (default 37)
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"
host=$(realpath "$1") every=${EVERY:-37}
# bounded KIB ARGUMENTS...: runs the program on the host, in so much address space: a GPU's driver would not start there,
# nor would a sanitizer (SANITIZED=1).
bounded() {
  (
    if [[ -z ${SANITIZED:-} ]]; then ulimit -v "$1"; fi
    exec timeout 20 "$host" "${@:2}" --device cpu
  )
}
train=(train --config "$work/config.json" --data "$work/text.txt" --seq 32 --batch 2 --steps 2 --prompt '')
"$mtpx" "${train[@]}" --out "$work/model" >/dev/null
x=(generate --model "$work/model" --prompt x --max-tokens 3 --draft 0)

# A copy of the model that may be broken.
broken() { rm -rf "$work/broken" && cp -r "$work/model" "$work/broken"; }
# at OFFSET FILE: the byte there, as a number.
at() { od -An -tu1 -j "$1" -N 1 "$2" | tr -d ' '; }
# poke FILE OFFSET BYTES: writes bytes, given as \xHH.
poke() { printf '%b' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# told CODE EXPRESSION ARGUMENTS...: ends with the code and one line that matches.
told() {
  local code=$1 text=$2 status=0
  shift 2
  "$mtpx" "$@" >/dev/null 2>"$work/stderr" </dev/null || status=$?
  if [[ $status != "$code" || $(wc -l <"$work/stderr") != 1 ]] || ! grep -Eq "$text" "$work/stderr"; then
    fail "mtpx $*: exit code $status, '$(cat "$work/stderr")'"
  fi
}

# A flipped bit of the weights, in the data and in the header.
size=$(stat -c %s "$work/model/model.safetensors")
for offset in $((size - 1)) 100; do
  broken
  poke "$work/broken/model.safetensors" $offset "\\x$(printf %02x $(($(at $offset "$work/broken/model.safetensors") ^ 1)))"
  told 3 "^mtpx: \[safetensors\] $work/broken/model.safetensors: " "${x[@]/$work\/model/$work\/broken}"
done
grep -q 'has another header than was written' "$work/stderr" || fail "a flipped bit of the header: '$(cat "$work/stderr")'"
broken
poke "$work/broken/model.safetensors" $((size - 4)) '\x01'
"$mtpx" "${x[@]/$work\/model/$work\/broken}" --no-verify >/dev/null 2>&1 || fail "--no-verify does not take a flipped bit"

# A file that shrinks while it is mapped, behind the N-th look at its size: one line that names it.
if [[ -n ${FAULTS:-} ]]; then
  "$mtpx" tokenize --data "$work/text.txt" --tokenizer bytes --out "$work/ids" >/dev/null
  for file in model.safetensors ids; do
    lost=0
    for ((at = 1 + RANDOM % every; at < 1000; at += every)); do
      broken
      cp "$work/ids" "$work/broken/ids"
      status=0
      FAULT_PATH=$work/broken/$file FAULT_AT=$at FAULT_DO=truncate LD_PRELOAD=$FAULTS \
        "$mtpx" score --model "$work/broken" --data "$work/broken/ids" --seq 32 >/dev/null 2>"$work/stderr" || status=$?
      if [[ -s $work/broken/$file ]]; then break; fi
      if [[ $status == 0 ]]; then continue; fi  # nobody read it any more
      [[ $status == 3 && $(wc -l <"$work/stderr") == 1 ]] && grep -q "^mtpx: .*$work/broken/$file: " "$work/stderr" ||
        fail "$file emptied behind look $at: exit code $status, '$(cat "$work/stderr")'"
      if grep -q 'cannot be read any more: it has shrunk while it was in use, or its disk fails$' "$work/stderr"; then lost=$((lost + 1)); fi
    done
    [[ $lost != 0 ]] || fail "no look at the size of $file comes before its bytes are touched"
    echo "$file: emptied behind each $every-th look at its size, of less than $at; bytes were lost $lost times"
  done
fi

# Weights that are not finite, in a folder without checksums; the gains of the last norm, where nobody looks.
golden=$(dirname "$0")/../golden/depth3
cp -r "$golden" "$work/golden"
poke "$work/golden/model.safetensors" $(($(stat -c %s "$golden/model.safetensors") - 4)) '\x00\x00\xc0\x7f'
told 5 "^mtpx: \[model\] $work/golden/model.safetensors: tensor \"[a-z0-9._]*\": number [0-9]* is nan$" \
  generate --model "$work/golden" --prompt x
broken
for ((i = 1; i <= 32; ++i)); do poke "$work/broken/model.safetensors" $((size - 4 * i)) '\x00\x00\xc0\x7f'; done
for draft in 0 2; do
  told 5 '^mtpx: \[next token\] the logits of row 0 are not finite: no token can be chosen by them$' \
    generate --model "$work/broken" --prompt x --no-verify --draft $draft
done

# An older configuration beside the weights, as a save leaves it that ends between its two renames.
sed 's/"rope_theta": 10000.0/"rope_theta": 500.0/' "$work/config.json" >"$work/other.json"
"$mtpx" "${train[@]/$work\/config.json/$work\/other.json}" --out "$work/other" >/dev/null
score=(score --data "$work/text.txt" --seq 32)
"$mtpx" "${score[@]}" --model "$work/model" >"$work/want"
broken
cp "$work/other/config.json" "$work/broken/config.json"
"$mtpx" "${score[@]}" --model "$work/broken" >"$work/got"
cmp "$work/want" "$work/got" || fail "an older config.json changes the losses"
another="mtpx: [model] $work/broken/config.json: is not the one that was written with the weights; --no-verify takes it as it is"
cp "$work/config.json" "$work/broken/config.json"
expect 3 "$another"$'\n  mtpx_trained_window: 32 then, absent now' "${score[@]}" --model "$work/broken"
broken
sed -i 's/"rope_theta": 10000.0/"rope_theta": 500.0/' "$work/broken/config.json"
expect 3 "$another"$'\n  rope_theta: 10000.0 then, 500.0 now' "${score[@]}" --model "$work/broken"
"$mtpx" "${score[@]}" --model "$work/broken" --no-verify >"$work/got" || fail "--no-verify does not take an edited config.json"
if cmp -s "$work/want" "$work/got"; then fail "--no-verify: the edit does not count"; fi

# Another tokenizer, or none, beside the weights.
"$mtpx" "${train[@]}" --vocab-size 300 --out "$work/bpe" >/dev/null
"$mtpx" "${train[@]}" --vocab-size 290 --out "$work/fewer" >/dev/null
bpe=$work/bpe/tokenizer.json sum='[0-9a-f]{16}'
rm "$bpe"
told 3 "^mtpx: \[tokenizer\] $bpe: is missing, the weights' has $sum$" "${score[@]}" --model "$work/bpe"
cp "$work/fewer/tokenizer.json" "$bpe"
told 3 "^mtpx: \[tokenizer\] $bpe: is not the one that was written with the weights: its checksum is $sum, the weights' has $sum$" \
  "${score[@]}" --model "$work/bpe"
"$mtpx" "${score[@]}" --model "$work/bpe" --no-verify >/dev/null || fail "--no-verify does not take another tokenizer"
"$mtpx" "${train[@]}" --force --out "$work/bpe" >/dev/null
[[ ! -e $work/bpe/tokenizer.json ]] || fail "--force: a tokenizer stays beside a model of bytes"
"$mtpx" "${score[@]}" --model "$work/bpe" | cmp - "$work/want" || fail "--force: another model"

# Sizes that the weights are far too few for are refused at once, in little memory.
for change in 's/"num_hidden_layers": 2/"num_hidden_layers": 1000000/' 's/"n_routed_experts": 4/"n_routed_experts": 1000000000/' \
  's/"max_position_embeddings": 128/"max_position_embeddings": 1000000000/'; do
  broken
  sed -i "$change" "$work/broken/config.json"
  status=0
  bounded 4000000 "${x[@]/$work\/model/$work\/broken}" --no-verify >/dev/null 2>"$work/stderr" || status=$?
  if [[ $status != 3 ]] || ! grep -q 'are too few for' "$work/stderr"; then
    fail "$change: exit code $status, '$(cat "$work/stderr")'"
  fi
done

# A model in --out stays where nobody says --force, shards as well.
mkdir "$work/shards"
echo '{"weight_map": {"lm_head.weight": "model-1.safetensors"}}' >"$work/shards/model.safetensors.index.json"
echo old >"$work/shards/model-1.safetensors"
expect 2 "mtpx: [train] --out $work/shards: a model is there already; --force replaces it" "${train[@]}" --out "$work/shards"
[[ $(cat "$work/shards/model-1.safetensors") == old && ! -e $work/shards/config.json ]] || fail "a sharded model was touched"
"$mtpx" "${train[@]}" --out "$work/shards" --force >/dev/null || fail "--force over a sharded model"
[[ ! -e $work/shards/model-1.safetensors && ! -e $work/shards/model.safetensors.index.json ]] || fail "shards stay beside the new model"

# Folders that cannot be made.
ln -s loop "$work/loop"
long=$(printf 'x%.0s' {1..300})
expect 4 "mtpx: [train] --out $work/loop/a: cannot be made: Too many levels of symbolic links" "${train[@]}" --out "$work/loop/a"
expect 4 "mtpx: [train] --out $work/$long: cannot be made: File name too long" "${train[@]}" --out "$work/$long"
expect 4 "mtpx: [train] --out $work/text.txt/a: cannot be made: Not a directory" "${train[@]}" --out "$work/text.txt/a"
if [[ $(id -u) != 0 ]]; then
  mkdir -p "$work/closed" && chmod 0 "$work/closed"
  expect 4 "mtpx: [train] --out $work/closed/a: cannot be made: Permission denied" "${train[@]}" --out "$work/closed/a"
  chmod 700 "$work/closed"
fi

# Options that are no numbers, or nothing.
none=(--out "$work/none")
for flag in --lambda --lambda-late --bias-speed --clip --lr --weight-decay --depth-decay --depth-weights --validation --lambda-switch; do
  for value in nan inf 1e999; do
    status=0
    "$mtpx" "${train[@]}" "${none[@]}" $flag $value >/dev/null 2>"$work/stderr" || status=$?
    [[ $status == 2 && $(wc -l <"$work/stderr") == 1 ]] || fail "$flag $value: exit code $status, '$(cat "$work/stderr")'"
  done
done
for value in -1 18446744073709551616 1.5; do
  expect 2 "mtpx: --seed: must be a whole number from 0 to 2^64 - 1, not '$value'" "${train[@]}" "${none[@]}" --seed $value
done
for flag in --init --config --tokenizer; do
  status=0
  "$mtpx" train --data "$work/text.txt" "${none[@]}" --steps 1 $flag '' >/dev/null 2>"$work/stderr" || status=$?
  [[ $status == 2 && $(cat "$work/stderr") == "mtpx: $flag: must be given, not ''" ]] ||
    fail "$flag '': exit code $status, '$(cat "$work/stderr")'"
done
expect 2 "mtpx: [train] depth_weights = 3 numbers: there are 2 depths" "${train[@]}" "${none[@]}" --depth-weights 1,1,1
[[ ! -e $work/none ]] || fail "a refused run left a folder"

# Output that cannot be written, input that cannot be read.
status=0
"$mtpx" "${score[@]}" --model "$work/model" >/dev/full 2>"$work/stderr" || status=$?
[[ $status == 4 && $(cat "$work/stderr") == "mtpx: standard output: cannot be written: No space left on device" ]] ||
  fail "score onto a full disk: exit code $status, '$(cat "$work/stderr")'"
expect 3 "mtpx: [generate] --prompts /proc/self/mem: cannot be read behind line 0" generate --model "$work/model" --prompts /proc/self/mem
mkfifo "$work/pipe"
tokens=$(dirname "$0")/../golden/dense/golden.safetensors
expect 4 "mtpx: [safetensors] $work/pipe: is not a regular file, and is not replaced" \
  score --model "$(dirname "$0")/../golden/dense" --tokens "$tokens" --dump "$work/pipe"
[[ -p $work/pipe ]] || fail "--dump replaced a pipe"
(ulimit -f 20 && trap '' XFSZ && exec "$mtpx" "${train[@]}" --save-every 0 --out "$work/model" --force >/dev/null 2>"$work/stderr") && fail "a full disk is no error"
grep -q "^mtpx: \[safetensors\] $work/model/model.safetensors: cannot be written, [0-9]* bytes were left: File too large$" "$work/stderr" ||
  fail "a full disk: '$(cat "$work/stderr")'"
"$mtpx" "${score[@]}" --model "$work/model" | cmp - "$work/want" || fail "a full disk has changed the old model"
[[ -z $(find "$work/model" -name '*.tmp-*') ]] || fail "a full disk has left $(ls "$work/model")"

# Standard streams that are closed: nothing of what is said goes into a file.
"$mtpx" "${train[@]}" --out "$work/silent" <&- >&- 2>&- || fail "closed streams end the run"
if grep -v '^{' "$work/silent/metrics.jsonl"; then fail "closed streams: what is said went into metrics.jsonl"; fi

# Why a text ended, and that it went past what was trained on.
"$mtpx" "${x[@]}" 2>"$work/stderr" >/dev/null
grep -q ' tokens per pass; ended by max tokens$' "$work/stderr" || fail "no reason: '$(cat "$work/stderr")'"
"$mtpx" "${x[@]:0:5}" --max-tokens 1000 --json --draft 0 >"$work/json" 2>"$work/stderr"
grep -q '"ended":"end of the context"' "$work/json" || fail "no reason: '$(cat "$work/json")'"
past='notice: the text went past 32 tokens, the longest window that the model was trained on'
[[ $(cat "$work/stderr") == "$past" ]] || fail "generate past the window: '$(cat "$work/stderr")'"
"$mtpx" score --data "$work/text.txt" --seq 64 --model "$work/model" 2>"$work/stderr" >/dev/null
[[ $(cat "$work/stderr") == "$past" ]] || fail "score past the window: '$(cat "$work/stderr")'"

if [[ -z ${SANITIZED:-} ]]; then
  # Memory that is not there.
  status=0
  bounded 3000000 train --preset small --data "$work/text.txt" --batch 4096 --seq 256 --steps 1 "${none[@]}" \
    >/dev/null 2>"$work/stderr" || status=$?
  if [[ $status != 6 ]] || ! grep -Eq '^mtpx: (\[cpu\] )?out of memory' "$work/stderr"; then
    fail "no memory: exit code $status, '$(cat "$work/stderr")'"
  fi
fi

[[ $failures == 0 ]] && echo "program: all faults are told"
exit $((failures > 0))
