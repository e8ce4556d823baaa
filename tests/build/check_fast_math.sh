#!/usr/bin/env bash
# Flags under which sums lose their order end the compilation, and the message says so; -O3 does not.
# Usage: check_fast_math.sh REPOSITORY COMPILER
set -euo pipefail
cd "$1"
compiler=$2

preprocess() {  # FLAG
  "$compiler" -std=c++20 "$1" -I include -E -x c++ - <<<'#include <mtpx/kernels.hpp>' 2>&1 >/dev/null
}

preprocess -O3
for flag in -Ofast -ffast-math -ffinite-math-only; do
  if message=$(preprocess "$flag"); then
    echo "$flag: compiles"
    exit 1
  fi
  if [[ $message != *'sums their order'* ]]; then
    echo "$flag: fails for another reason: $message"
    exit 1
  fi
done
