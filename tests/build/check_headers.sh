#!/usr/bin/env bash
# Every header compiles alone, even when included twice: nobody has to know what to include before it.
# Usage: check_headers.sh REPOSITORY OUT_FOLDER COMPILER [FLAG...]
set -euo pipefail
cd "$1"
out=$2
compiler=("${@:3}" -std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I . -I include)

# Where Eigen is read, reading it is most of the price: precompiled. The others do without, because it would bring
# standard headers that they forgot.
with_eigen='kernels/eigen/|mtpx/reference.hpp|core/eigen.hpp'
mkdir -p "$out"
echo '#include <Eigen/Core>' >"$out/eigen.hpp"
"${compiler[@]}" -x c++-header "$out/eigen.hpp" -o "$out/eigen.hpp.gch"

compile() {  # HEADER COMPILER FLAG...
  printf '#include "%s"\n#include "%s"\n' "$1" "$1" | "${@:2}" -fsyntax-only -x c++ - ||
    { echo "$1: does not compile alone" && exit 1; }
}
export -f compile

headers=$(find include kernels -name '*.hpp' | grep -v cuda | sort)  # those need the CUDA toolkit
grep -Ev "$with_eigen" <<<"$headers" |
  xargs -P "$(nproc)" -I{} bash -c 'compile "$@"' compile {} "${compiler[@]}"
grep -E "$with_eigen" <<<"$headers" |
  xargs -P "$(nproc)" -I{} bash -c 'compile "$@"' compile {} "${compiler[@]}" -include "$out/eigen.hpp"
