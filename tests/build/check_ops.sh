#!/usr/bin/env bash
# docs/ops.md names every op: each public function of include/mtpx/ops/.
# Usage: check_ops.sh REPOSITORY
set -euo pipefail
cd "$1"
status=0

ops=$(awk '
  FNR == 1 { inside = 0; head = 0 }
  /^namespace detail/ { inside = 1 }
  /^}  \/\/ namespace detail/ { inside = 0 }
  inside { next }
  /^template/ || /^(constexpr|inline)/ { head = 1 }
  head && /^[A-Za-z].*[ >&*]([a-z_]+)\(/ && !/operator|^template|^struct|^class/ {
    match($0, /[ >&*][a-z_]+\(/)
    print substr($0, RSTART + 1, RLENGTH - 2)
    head = 0
  }
' include/mtpx/ops/*.hpp | sort -u)
if (($(wc -w <<<"$ops") < 50)) || [[ $'\n'$ops$'\n' != *$'\n'swiglu$'\n'* ]]; then
  echo "the names of the ops were not found: has include/mtpx/ops/ changed its form?"
  status=1
fi
for op in $ops; do
  if ! grep -q "^|.*\`$op\`" docs/ops.md; then
    echo "docs/ops.md has no row with \`$op\`"
    status=1
  fi
done
exit "$status"
