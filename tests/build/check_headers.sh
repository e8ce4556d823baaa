#!/usr/bin/env bash
# Every header compiles alone, even when included twice: nobody has to know what to include before it.
# Usage: check_headers.sh REPOSITORY OUT_FOLDER COMPILER [FLAG...]
set -euo pipefail
cd "$1"
out=$2
compiler=("${@:3}" -std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I . -I include)

# Reading Eigen is most of the price. What reaches it anyway (through the kernels) gets it precompiled; the
# others do not, because Eigen would bring standard headers that they forgot.
without_eigen='^(include/mtpx/(version|core/[^e]|core/error|io/|model/config|nn/yarn|train/(batches|corpus|schedule))|kernels/[a-z]+\.)'
mkdir -p "$out"
echo '#include <Eigen/Core>' >"$out/eigen.hpp"
"${compiler[@]}" -x c++-header "$out/eigen.hpp" -o "$out/eigen.hpp.gch"

compile() {  # HEADER COMPILER FLAG...
  printf '#include "%s"\n#include "%s"\n' "$1" "$1" | "${@:2}" -fsyntax-only -x c++ - ||
    { echo "$1: does not compile alone" && exit 1; }
}
export -f compile

headers=$(find include kernels -name '*.hpp' | grep -v cuda | sort)  # those need the CUDA toolkit
grep -E "$without_eigen" <<<"$headers" |
  xargs -P "$(nproc)" -I{} bash -c 'compile "$@"' compile {} "${compiler[@]}"
grep -Ev "$without_eigen" <<<"$headers" |
  xargs -P "$(nproc)" -I{} bash -c 'compile "$@"' compile {} "${compiler[@]}" -include "$out/eigen.hpp"
