#!/usr/bin/env bash
# Token files as a person meets them: a text's model whichever way its ids come, and what is refused.
# Usage: tests/program/tokens_test.sh PROGRAM [DEVICE]
set -euo pipefail
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"
mkdir "$work/folder"
for ((i = 0; i < 40; ++i)); do head -n $((i * 5 + 1)) "$work/text.txt" >"$work/folder/$i.txt"; done
settings=(--config "$work/config.json" --seq 32 --batch 4 --steps 20 --eval-windows 4 --save-every 10 --keep-last 2)
train=(train "${settings[@]}")

# same NAME A B: the model and the metrics of two runs are equal, byte for byte.
same() {
  local file
  for file in model.safetensors metrics.jsonl; do cmp "$2/$file" "$3/$file" || fail "$1: $file is another one"; done
}

# Bytes and learnt tokens: from text, from a file, and from a text that is held to be large.
"$mtpx" "${train[@]}" --data "$work/folder" --out "$work/bytes" >"$work/log"
"$mtpx" "${train[@]}" --data "$work/folder" --vocab-size 300 --out "$work/bpe" >"$work/log"
for name in bytes bpe; do
  tokenizer=bytes more=()
  if [[ $name == bpe ]]; then tokenizer=$work/bpe more=(--tokenizer "$work/bpe/tokenizer.json" --vocab-size 300); fi
  "$mtpx" tokenize --data "$work/folder" --tokenizer "$tokenizer" --out "$work/$name.tokens" --threads 1 >"$work/log"
  "$mtpx" tokenize --data "$work/folder" --tokenizer "$tokenizer" --out "$work/two" --threads 2 >/dev/null
  cmp "$work/$name.tokens" "$work/two" || fail "the file depends on the number of threads"
  grep -Eq "^$work/$name.tokens: [0-9]+ tokens of [0-9]+ in 40 documents, from [0-9]+ bytes of text, [0-9.]+ a token; [0-9.]+ MB/s$" "$work/log" ||
    fail "tokenize: $(cat "$work/log")"
  "$mtpx" "${train[@]}" "${more[@]}" --data "$work/$name.tokens" --out "$work/$name.mapped" >"$work/log"
  same "$name, mapped" "$work/$name" "$work/$name.mapped"
  if [[ $name == bpe ]]; then more=(--vocab-size 300); fi  # learnt from the disk, too
  "$mtpx" "${train[@]}" "${more[@]}" --data "$work/folder" --text-memory 0 --out "$work/$name.large" >"$work/log"
  grep -q "^notice: the text is large; its tokens go to $work/$name.large/text.tokens$" "$work/log" || fail "large text: $(head -n 1 "$work/log")"
  same "$name, large" "$work/$name" "$work/$name.large"
  cmp "$work/$name.tokens" "$work/$name.large/text.tokens" || fail "$name: two files of one text"
  "$mtpx" score --model "$work/$name" --data "$work/folder" --seq 32 >"$work/score"
  "$mtpx" score --model "$work/$name" --data "$work/$name.tokens" --seq 32 | cmp - "$work/score" || fail "$name: another score"
done
# A large text's file is taken again while the text is the same.
"$mtpx" "${train[@]}" --data "$work/folder" --text-memory 0 --force --out "$work/bytes.large" >"$work/log"
if grep -q '^notice: the text' "$work/log"; then fail "the text's tokens were made again"; fi
echo "one more" >>"$work/folder/7.txt"
"$mtpx" "${train[@]}" --data "$work/folder" --text-memory 0 --force --out "$work/bytes.large" >"$work/log"
grep -q '^notice: the text is large' "$work/log" || fail "a text that changed: the old tokens were taken"
# Text to validate on comes as a file, too.
"$mtpx" "${train[@]}" --data "$work/text.txt" --validation-data "$work/folder" --out "$work/own" >/dev/null
"$mtpx" tokenize --data "$work/folder" --tokenizer bytes --out "$work/validation.tokens" >/dev/null
"$mtpx" "${train[@]}" --data "$work/text.txt" --validation-data "$work/validation.tokens" --out "$work/own.mapped" >/dev/null
same "validation" "$work/own" "$work/own.mapped"

# A run that began on text goes on from a file of it, and not from another one.
"$mtpx" "${train[@]}" --data "$work/bytes.tokens" --resume "$work/bytes/checkpoints/step-00000010" --out "$work/resumed" >"$work/log"
cmp "$work/bytes/model.safetensors" "$work/resumed/model.safetensors" || fail "--resume with a token file: another model"
"$mtpx" "${train[@]}" --data "$work/validation.tokens" --resume "$work/bytes/checkpoints/step-00000010" --out "$work/none" 2>"$work/log" &&
  fail "another text was taken"
grep -q '^  data.train: "[0-9a-f]*" then, "[0-9a-f]*" now$' "$work/log" || fail "another text: $(cat "$work/log")"

# The ids of one file.
printf 'ab\n' >"$work/three.txt"
[[ $("$mtpx" tokenize --tokenizer bytes --text "$work/three.txt" --print) == '[97,98,10]' ]] || fail "tokenize --print"
[[ $("$mtpx" tokenize --tokenizer bytes --text /dev/null --print 2>&1) == 'mtpx: [tokenize] /dev/null: is not a regular file' ]] || fail "--print /dev/null"
"$mtpx" tokenize --tokenizer "$work/bpe/tokenizer.json" --text "$work/text.txt" --print | grep -Eq '^\[[0-9]+(,[0-9]+)+\]$' || fail "--print of BPE"
: >"$work/empty.txt"
[[ $("$mtpx" tokenize --tokenizer "$work/bpe" --text "$work/empty.txt" --print) == '[]' ]] || fail "--print of nothing"

# What is refused, and writes nothing.
out=(--out "$work/none")
learnt=$(od -An -tx8 -j64 -N8 "$work/bpe.tokens" | tr -d ' ') bytes=$(od -An -tx8 -j64 -N8 "$work/bytes.tokens" | tr -d ' ')
expect 3 "mtpx: [tokens] $work/bpe.tokens: tokenizer = $learnt: the model's is $bytes" "${train[@]}" --data "$work/bpe.tokens" "${out[@]}"
expect 3 "mtpx: [tokens] $work/bytes.tokens: tokenizer = $bytes: the model's is $learnt" score --model "$work/bpe" --data "$work/bytes.tokens" --seq 32
expect 3 "mtpx: [tokens] $work/bpe.tokens: holds ids, from which no tokenizer can be learnt: --tokenizer names theirs" \
  "${train[@]}" --data "$work/bpe.tokens" --vocab-size 300 "${out[@]}"
expect 3 "mtpx: [data] $work/bpe.tokens: is a token file, which stands alone in --data" "${train[@]}" --data "$work/text.txt" "$work/bpe.tokens" "${out[@]}"
head -c 5000 "$work/bytes.tokens" >"$work/cut.tokens"
expect 3 "mtpx: [tokens] $work/cut.tokens: tokens = $(od -An -td8 -j40 -N8 "$work/cut.tokens" | tr -d ' '): the file has 5000 bytes" \
  "${train[@]}" --data "$work/cut.tokens" "${out[@]}"
cp "$work/bytes.tokens" "$work/changed.tokens"
printf 'X' | dd of="$work/changed.tokens" bs=1 seek=70000 conv=notrunc 2>/dev/null
expect 3 "mtpx: [tokens] $work/changed.tokens: tokens 65536 to 131071 have changed since they were written: their checksum is another one" \
  score --model "$work/bytes" --data "$work/changed.tokens" --seq 32
expect 0 "" score --model "$work/bytes" --data "$work/changed.tokens" --seq 32 --no-verify
expect 2 "mtpx: [tokenize] --data and --out are required, or --text and --print" tokenize --tokenizer bytes
expect 4 "mtpx: [tokens] $work/nowhere/x: cannot be created: No such file or directory" tokenize --data "$work/text.txt" --tokenizer bytes --out "$work/nowhere/x"
expect 3 "mtpx: [data] $work/bpe.tokens: is a token file, and this command takes text" tokenize --data "$work/bpe.tokens" --tokenizer bytes "${out[@]}"
expect 3 "mtpx: [data] $work/missing: no such file or folder" tokenize --data "$work/missing" --tokenizer bytes "${out[@]}"
expect 3 "mtpx: [tokenizer] $work/folder/tokenizer.json: cannot be opened: No such file or directory" \
  tokenize --data "$work/text.txt" --tokenizer "$work/folder" "${out[@]}"
[[ ! -e $work/none ]] || fail "a refused run left $(ls "$work/none")"

[[ $failures == 0 ]] && echo "tokens: all checks passed"
exit $((failures > 0))
