#!/usr/bin/env bash
# Of all that headers hold, nothing is defined twice where two translation units include them: an object that includes
# everything defines nothing that another one may not define, too.
# Usage: check_once.sh OBJECT
set -euo pipefail
symbols=$(nm -C --defined-only --extern-only "$1")
grep -q ' T every_header()$' <<<"$symbols" || { echo "$1: not the object of every header" && exit 1; }
strong=$(grep -E '^[0-9a-f]+ [ABCDGRST] ' <<<"$symbols" | grep -v ' T every_header()$' || true)
[[ -z $strong ]] || { printf 'defined wherever it is included (inline is missing):\n%s\n' "$strong" && exit 1; }
