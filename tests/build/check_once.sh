#!/usr/bin/env bash
# Of all that headers hold, nothing is defined twice where two translation units include them: an object that includes
# everything defines nothing that another one may not define, too.
# Usage: check_once.sh OBJECT
set -euo pipefail
strong=$(nm -C --defined-only --extern-only "$1" | grep -E '^[0-9a-f]+ [ABCDGRST] ' | grep -v ' T every_header()$' || true)
[[ -z $strong ]] || { printf 'defined wherever it is included (inline is missing):\n%s\n' "$strong" && exit 1; }
