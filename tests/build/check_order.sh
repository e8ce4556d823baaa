#!/usr/bin/env bash
# No call has two arguments that record on a tape or draw a number: C++ leaves open which of them runs first, g++ and
# clang choose differently, and then the order of a gradient's sums differs. Two locals, or braces, have an order.
# What records: the ops (read from include/mtpx/ops/), the modules' members, and what calls these. A lambda's body is
# not a part of the call that it is handed to.
# Usage: check_order.sh REPOSITORY [FILE...]      FILE...: instead of include/, examples/ and tests/
set -euo pipefail
cd "$1"

ops=$(sed -nE 's/^[A-Z].*[ >&]([a-z_]+)\(.*/\1/p' include/mtpx/ops/*.hpp | sort -u | tr '\n' '|')
if [[ $ops != *'linear_cross_entropy|'*'swiglu|'* ]]; then
  echo "the names of the ops were not found: has include/mtpx/ops/ changed its form?"
  exit 1
fi
modules='[a-z_]*(_proj|norm|embed|embed_tokens|linear|lm_head|head)|mlp|moe|self_attn|shared_experts|attend|block|layer'
callers='mtp_loss|mtp_backward|checkpoint|project|model'
draws='next|draw|uniform|normal'

if (($# > 1)); then
  files=("${@:2}")
else
  mapfile -t files < <(find include/mtpx examples tests -name '*.hpp' -o -name '*.cpp')
fi

awk -v "recording=^($ops$modules|$callers|$draws)\$" -v "draws=^($draws)\$" '
  # One token at a time. A stack of brackets; of each is known what it is and which of its arguments record.
  function open(kind) {
    ++depth
    kinds[depth] = kind
    names[depth] = before
    records[depth] = 0     # the argument that is being read
    arguments[depth] = 0   # those before it that do
    starts[depth] = FNR
  }
  function finish_argument() {
    if (records[depth]) ++arguments[depth]
    records[depth] = 0
  }
  function close_bracket(  any, kind) {
    if (depth == 0) return
    finish_argument()
    any = arguments[depth] > 0
    kind = kinds[depth]
    if (kind ~ /call/ && arguments[depth] > 1) {
      print FILENAME ":" starts[depth] ": " arguments[depth] " arguments of one call record: which is first?"
      broken = 1
    }
    # step.norm() is a number that stands there; next() is a new one.
    if (kind == "recording call" && (before != "(" || names[depth] ~ draws)) any = 1
    --depth
    if (any && kind != "body") records[depth] = 1
  }
  function token(t) {
    if (t == "(") {
      # A call follows a name, or brackets as in (*member)(x). Others group, or belong to if, for and while.
      if (before ~ recording) open("recording call")
      else if (before == ")" && group ~ /^\(\*[a-z_]+\)$/) open("recording call")
      else if (before ~ /^[A-Za-z_][A-Za-z_0-9]*$/ && before !~ /^(if|for|while|switch|return|requires|decltype|sizeof)$/)
        open("call")
      else if (before == ">" || before == ")" || before == "]") open("call")
      else open("group")
      if (before !~ /[)]/) group = ""
    } else if (t == "{") {
      # A body follows a parameter list, or what stands behind one; a list follows a name or an operator.
      open(before ~ /^(\)|\]|else|do|const|noexcept|mutable|try)$/ || after_arrow || depth == 0 ? "body" : "list")
      after_arrow = 0
    } else if (t == ")" || t == "}") {
      close_bracket()
    } else if (t == ",") {
      finish_argument()
    } else if (t == ";") {
      records[depth] = 0
      after_arrow = 0
    } else if (t == "->" && before == ")") {
      after_arrow = 1
    }
    group = t == "(" ? "(" : group t
    before = t
  }

  FNR == 1 {
    depth = 0
    records[0] = comment = after_arrow = 0
    before = group = ""
  }
  /^[ \t]*#/ { next }
  {
    line = $0
    while (line != "") {
      if (comment) {
        if (!match(line, /\*\//)) break
        line = substr(line, RSTART + 2)
        comment = 0
      } else if (match(line, /^[ \t]+/)) {
        line = substr(line, RLENGTH + 1)
      } else if (line ~ /^\/\//) {
        break
      } else if (line ~ /^\/\*/) {
        comment = 1
        line = substr(line, 3)
      } else if (match(line, /^"([^"\\]|\\.)*"/) || match(line, /^\047([^\047\\]|\\.)*\047/)) {
        token("text")
        line = substr(line, RLENGTH + 1)
      } else if (match(line, /^std::[a-z_]+/)) {
        token("std")  # std::exp is no op
        line = substr(line, RLENGTH + 1)
      } else if (match(line, /^[A-Za-z_][A-Za-z_0-9]*/) || match(line, /^[0-9][0-9A-Za-z_.\047]*/) ||
                 match(line, /^->/) || match(line, /^./)) {
        word = substr(line, 1, RLENGTH)
        line = substr(line, RLENGTH + 1)
        token(word)
      }
    }
  }
  END { exit broken }
' "${files[@]}"
