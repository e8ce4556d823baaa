#!/usr/bin/env bash
# Every header compiles alone, even when included twice: nobody has to know what to include before it.
# Usage: check_headers.sh REPOSITORY OUT_FOLDER COMPILER [FLAG...]
set -euo pipefail
cd "$1"
out=$2
compiler=("${@:3}" -std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I . -I include)

compile() {  # HEADER COMPILER FLAG...
  printf '#include "%s"\n#include "%s"\n' "$1" "$1" | "${@:2}" -fsyntax-only -x c++ - ||
    { echo "$1: does not compile alone" && exit 1; }
}
export -f compile

# What nearly all of a group reads is most of the price, so it is precompiled: Eigen for the reference, JSON for what
# reads it, the kernels for what is made of ops. The others do without, because it would bring headers that they forgot.
groups=('kernels/eigen/|mtpx/reference.hpp|core/eigen.hpp'
  'mtpx/io/(config_json|instances|json|model_folder|safetensors|weight_files)'
  'include/mtpx/(ops|nn|mtp|model|decode)/|train/(adamw|step|trainer)')
shared=('Eigen/Core' 'nlohmann/json.hpp' 'mtpx/kernels.hpp')
headers=$(find include kernels -name '*.hpp' | grep -v cuda | sort)  # those need the CUDA toolkit
mkdir -p "$out"
for i in "${!groups[@]}"; do
  echo "#include <${shared[i]}>" >"$out/$i.hpp"
done
printf '%s\n' "${!groups[@]}" |
  xargs -P "$(nproc)" -I{} "${compiler[@]}" -x c++-header "$out/{}.hpp" -o "$out/{}.hpp.gch"

check() {  # FLAG...   reads names of headers
  xargs -P "$(nproc)" -I{} bash -c 'compile "$@"' compile {} "${compiler[@]}" "$@"
}
for i in "${!groups[@]}"; do
  grep -E "${groups[i]}" <<<"$headers" | check -include "$out/$i.hpp"
  headers=$(grep -Ev "${groups[i]}" <<<"$headers")
done
check <<<"$headers"
