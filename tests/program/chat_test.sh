#!/usr/bin/env bash
# mtpx chat through a pipe: what is kept of a conversation changes no answer, Ctrl-C ends an answer and not the session,
# and what cannot be said is refused in one line.
# Usage: tests/program/chat_test.sh PROGRAM [DEVICE]
set -euo pipefail
export LC_ALL=C
# shellcheck source=tests/program/common.sh
source "$(dirname "$0")/common.sh"

model=$work/model
sed 's/"max_position_embeddings": 128/"max_position_embeddings": 20000/' "$work/config.json" >"$work/long.json"
"$mtpx" train --data "$work/text.txt" --seq 32 --batch 4 --prompt '' --config "$work/long.json" --steps 60 --out "$model" >/dev/null
cat >"$model/chat_template.jinja" <<'END'
{{ bos_token }}{% for m in messages %}
{{ m.role }}: {{ m.content }}
{% endfor %}
{% if add_generation_prompt %}
assistant: {% endif %}
END
# One that takes back what was said: of earlier answers three characters stay.
sed 's/{{ m.content }}/{{ m.content[:3] if m.role == "assistant" else m.content }}/' "$model/chat_template.jinja" >"$work/forgets"

# chat LINES ARGUMENTS...: answers to the lines on standard output, in $work/answers; what else is said in $work/said
chat() {
  local lines=$1 status=0
  shift
  printf '%s\n' "$lines" | "$mtpx" chat --model "$model" "$@" >"$work/answers" 2>"$work/said" || status=$?
  [[ $status == 0 ]] || fail "chat $*: exit code $status, '$(cat "$work/said")'"
}

# An answer with all that was said before decoded anew is the one of the conversation.
lines=('the quick brown' 'x' 'over the lazy dog é€ number 12')
for template in "$model/chat_template.jinja" "$work/forgets"; do
  for how in '--draft 0' '--draft 2' '--draft auto --temperature 0.8 --seed 5'; do
    read -ra options <<<"$how --max-tokens 50 --stop number"
    chat "$(printf '%s\n' "${lines[@]}")" --template "$template" --system Hello "${options[@]}" --stop $'\n'
    [[ $(wc -l <"$work/answers") == 3 ]] || fail "three answers are $(cat "$work/answers")"
    all=$'system: Hello\n' at=0 tokens=0
    while IFS= read -r answer; do
      all+="user: ${lines[at]}"$'\nassistant: '
      tokens=$((tokens + ${#all}))
      "$mtpx" generate --model "$model" --prompt "$all" "${options[@]}" --stop $'\n' >"$work/once" 2>/dev/null
      [[ "$(cat "$work/once"; echo .)" == "$all$answer"$'\n.' ]] || fail "$template $how: answer $at is another one"
      if [[ $template == "$work/forgets" ]]; then answer=${answer:0:3}; fi
      all+=$answer$'\n' at=$((at + 1))
    done <"$work/answers"
  done
  # And was not decoded anew.
  chat "$(printf '%s\n' "${lines[@]}" /stats)" --template "$template" --system Hello --max-tokens 50 --stop number --stop $'\n'
  said=$(sed -En 's/^prompt: ([0-9]+) tokens, .*/\1/p' "$work/said")
  ((said < tokens * 3 / 4)) || fail "$said tokens were decoded where all prompts have $tokens"
  grep -Eq "^drafted [0-9]+ tokens, accepted [0-9]+; context [0-9]+ of 16384 tokens$" "$work/said" || fail "/stats: $(cat "$work/said")"
done

# Commands, and a text that begins like one.
chat "$(printf '%s\n' "${lines[0]}" "${lines[1]}" /reset '' "${lines[0]}")" --max-tokens 20 --stop $'\n'
[[ $(wc -l <"$work/answers") == 3 && $(sed -n 1p "$work/answers") == "$(sed -n 3p "$work/answers")" ]] || fail "/reset: $(cat "$work/answers")"
chat "$(printf '%s\n' /nothing /help //x /exit never)" --max-tokens 5 --stop $'\n'
[[ $(wc -l <"$work/answers") == 1 ]] || fail "commands: $(cat "$work/answers")"
[[ $(grep -v '^notice' "$work/said") == 'mtpx: [chat] no such command: /nothing; /help tells which there are'$'\n''/reset begins another'* ]] || fail "commands: $(cat "$work/said")"

# A full context; a line that is none. The session goes on.
chat "$(printf 'a\n%s\nb\n' "$(printf 'x%.0s' {1..99})")" --context 60 --max-tokens 10 --stop $'\n'
[[ $(wc -l <"$work/answers") == 2 ]] || fail "a full context: $(cat "$work/answers")"
grep -Eq '^mtpx: \[chat\] the conversation would have 1[0-9][0-9] tokens, and there is room for 59: the line is not sent; /reset begins another$' "$work/said" ||
  fail "a full context: $(cat "$work/said")"
chat a --context 30
grep -qx 'notice: the context is full; /reset begins another' "$work/said" || fail "an answer that fills the context: $(cat "$work/said")"
chat "$(printf 'a\xff\nb')" --max-tokens 3
[[ $(grep -v '^notice' "$work/said") == 'mtpx: [chat] the line is not valid UTF-8' ]] || fail "not UTF-8: $(cat "$work/said")"

# What a template says of a conversation, and its variables.
# shellcheck disable=SC2016
echo '{% if messages|length > wanted %}{{ raise_exception("too many") }}{% endif %}{{ messages[-1].content }}' >"$work/strict"
chat "$(printf 'a\nb\n/reset\nc')" --template "$work/strict" --set wanted=1 --max-tokens 3 --stop $'\n'
[[ $(grep -v '^notice' "$work/said") == "mtpx: [template] $work/strict: line 1, column 37: too many" && $(wc -l <"$work/answers") == 2 ]] ||
  fail "raise_exception: $(cat "$work/said")"
expect 2 "mtpx: [chat] --set wanted: must be NAME=JSON" chat --model "$model" --set wanted
expect 3 "mtpx: [chat] --set a={: is not JSON at byte 2" chat --model "$model" --set 'a={'
echo '{% block x %}' >"$work/unknown"
expect 3 "mtpx: [template] $work/unknown: line 1, column 4: the tag 'block' is not supported" chat --model "$model" --template "$work/unknown"

# Ctrl-C ends the answer; the next line is answered; Ctrl-C while nothing is said ends the session.
mkfifo "$work/lines"
"$mtpx" chat --model "$model" --context 20000 --max-tokens 19000 >"$work/answers" 2>"$work/said" <"$work/lines" &
session=$!
exec 3>"$work/lines"
wait_for() {
  for ((i = 0; i < 600; ++i)); do
    if eval "$1"; then return; fi
    sleep 0.05
  done
  fail "waited in vain for $1: $(cat "$work/said")"
}
for turn in 1 2; do
  size=$(wc -c <"$work/answers")
  echo "the quick" >&3
  wait_for '(($(wc -c <"$work/answers") > size + 40))'
  kill -INT "$session"
  wait_for "((\$(grep -cx 'notice: the answer was interrupted' '$work/said') == $turn))"
done
kill -INT "$session"
status=0
wait "$session" || status=$?
[[ $status == 0 ]] || fail "Ctrl-C while nothing is said: exit code $status"
exec 3>&-

# Special tokens of a tokenizer: the template's are read, a person's are not sent.
"$mtpx" train --data "$work/text.txt" --seq 32 --batch 4 --steps 1 --config "$work/config.json" --vocab-size 299 --prompt '' --out "$work/bpe" >/dev/null
mkdir "$work/own"
sed 's/"added_tokens": \[\]/"added_tokens": [{"id": 299, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]/' \
  "$work/bpe/tokenizer.json" >"$work/own/tokenizer.json"
echo '{"eos_token": "<|end|>", "chat_template": "{{ messages[-1].content }}{{ eos_token }}"}' >"$work/own/tokenizer_config.json"
"$mtpx" train --data "$work/text.txt" --seq 32 --batch 4 --steps 1 --config "$work/config.json" --vocab-size 300 --prompt '' \
  --tokenizer "$work/own/tokenizer.json" --out "$work/special" >/dev/null
model=$work/special
chat "$(printf '%s\n' 'a <|end|> b' 'the quick' /stats)" --max-tokens 2
[[ $(head -n 1 "$work/said") == 'mtpx: [chat] the line holds <|end|>, a special token of the model, and is not sent' ]] || fail "special: $(cat "$work/said")"
printf 'the quick' >"$work/quick"
ids=$("$mtpx" tokenize --tokenizer "$work/special" --text "$work/quick" --print | tr , '\n' | wc -l)
grep -q "^prompt: $((ids + 1)) tokens" "$work/said" || fail "a special token is not one of $ids + 1 tokens: $(cat "$work/said")"
expect 2 "mtpx: [chat] --system holds <|end|>, a special token of the model" chat --model "$model" --system '<|end|>'
expect 3 "mtpx: [template] $work/bpe: has no chat template, neither chat_template.jinja nor chat_template in tokenizer_config.json; --template names a file that has one" \
  chat --model "$work/bpe"

[[ $failures == 0 ]] && echo "chat: all checks passed"
exit $((failures > 0))
