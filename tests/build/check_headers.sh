#!/usr/bin/env bash
# Every header compiles alone, even when included twice: nobody has to know what to include before it.
# Usage: check_headers.sh REPOSITORY OUT_FOLDER COMPILER [FLAG...]
set -euo pipefail
cd "$1"
out=$2
compiler=("${@:3}" -std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I . -I include)

compile() {  # COMPILER FLAG... HEADER PRECOMPILED
  local header=${*: -2:1} precompiled=${*: -1}
  printf '#include "%s"\n#include "%s"\n' "$header" "$header" |
    "${@:1:$#-2}" -include "$precompiled" -fsyntax-only -x c++ - || { echo "$header: does not compile alone" && exit 1; }
}
export -f compile

headers=$(find include -name '*.hpp' | grep -v cuda | sort)  # those need the CUDA toolkit

# Parsing what many headers read is most of the price, so these are precompiled, some of them together (+). A header gets the
# first of which it includes all itself, directly or not: then nothing is hidden that it forgot, because it would have it
# anyway.
core=include/mtpx/kernels/cpu/core
shared=(include/mtpx/model/transformer.hpp include/mtpx/kernels.hpp nlohmann/json.hpp include/mtpx/kernels/eigen/views.hpp
  "$core/simd.hpp+$core/parallel.hpp" include/mtpx/core/cpu.hpp include/mtpx/core/error.hpp)
mkdir -p "$out"
for i in "${!shared[@]}"; do
  # shellcheck disable=SC2086
  printf '#include <%s>\n' ${shared[i]//+/ } >"$out/$i.hpp"
done
: >"$out/none.hpp"
printf '%s\n' "${!shared[@]}" |
  xargs -P "$(nproc)" -I{} "${compiler[@]}" -x c++-header "$out/{}.hpp" -o "$out/{}.hpp.gch"

# Lines of: header, what is precompiled for it. Includes under an #if do not count.
# shellcheck disable=SC2086
awk -v shared="${shared[*]}" -v out="$out" '
  function absolute(name, quoted, parts, kept, n, i, k, path) {
    if (!quoted) return name ~ /^mtpx\// ? "include/" name : name
    path = FILENAME
    sub(/[^\/]*$/, "", path)
    n = split(path name, parts, "/")
    for (i = 1; i <= n; ++i) {
      if (parts[i] == "..") --k
      else kept[++k] = parts[i]
    }
    path = kept[1]
    for (i = 2; i <= k; ++i) path = path "/" kept[i]
    return path
  }
  function reaches(from, to, seen, next_ones, n, i) {
    if (from in seen) return 0
    seen[from] = 1
    n = split(includes[from], next_ones, " ")
    for (i = 1; i <= n; ++i) if (next_ones[i] == to || reaches(next_ones[i], to, seen)) return 1
    return 0
  }
  function reaches_all(from, group, wanted, n, i) {
    n = split(group, wanted, "+")
    for (i = 1; i <= n; ++i) { split("", seen); if (!reaches(from, wanted[i], seen)) return 0 }
    return 1
  }
  FNR == 1 { all[++count] = FILENAME; conditions = 0 }
  /^#if/ { ++conditions }
  /^#endif/ { --conditions }
  /^#include/ && !conditions && match($0, /[<"][^>"]*[>"]/) {
    includes[FILENAME] = includes[FILENAME] " " absolute(substr($0, RSTART + 1, RLENGTH - 2), substr($0, RSTART, 1) == "\"")
  }
  END {
    n = split(shared, names, " ")
    for (h = 1; h <= count; ++h) {
      found = "none"
      for (i = n; i >= 1; --i) if (reaches_all(all[h], names[i])) found = i - 1
      print all[h], out "/" found ".hpp"
    }
  }' $headers >"$out/groups"
xargs -P "$(nproc)" -L 1 bash -c 'compile "$@"' compile "${compiler[@]}" <"$out/groups"
