#!/usr/bin/env bash
# Every header compiles alone, even when included twice: nobody has to know what to include before it.
# Usage: check_headers.sh REPOSITORY COMPILER [FLAG...]
set -euo pipefail
cd "$1"
compiler=("${@:2}" -std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I . -I include)

compile() {  # HEADER COMPILER FLAG...
  printf '#include "%s"\n#include "%s"\n' "$1" "$1" | "${@:2}" -fsyntax-only -x c++ - ||
    { echo "$1: does not compile alone" && exit 1; }
}
export -f compile

find include kernels -name '*.hpp' | grep -v cuda | sort |  # those need the CUDA toolkit
  xargs -P "$(nproc)" -I{} bash -c 'compile "$@"' compile {} "${compiler[@]}"
