#!/usr/bin/env bash
# Every header can be read alone, even when included twice: nobody has to know what to include before it.
# Usage: check_headers.sh REPOSITORY OUT_FOLDER COMPILER [FLAG...]
set -euo pipefail
export LC_ALL=C
cd "$1"
out=$2
compiler=("${@:3}" -std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I . -I include)

# Names are looked up where they are read, but for those that depend on a template's arguments. So the compiler is ended
# behind the last line, by the one error that is expected, and spends nothing on instances: every header compiles whole
# beside the others, in mtpx_every_header.
compile() {  # COMPILER FLAG... -- PRECOMPILED HEADER...
  local command=() said
  while [[ $1 != -- ]]; do command+=("$1") && shift; done
  said=$({ printf '#include "%s"\n' "${@:3}" "${@: -1}" && echo 'static_assert(false, "all was read");'; } |
    "${command[@]}" -include "$2" -fsyntax-only -Wfatal-errors -x c++ - 2>&1) || true
  [[ $(grep -E '(error|warning):' <<<"$said") == '<stdin>:'*'error: static'*'all was read'* ]] ||
    { echo "$said" && echo "${*:3}: cannot be read alone" && exit 1; }
}
export -f compile

headers=$(find include -name '*.hpp' | grep -vE 'cuda|comm/(mpi|nccl|peer_memory)\.hpp' | sort)  # those need the CUDA toolkit or MPI

# Parsing what many headers read is most of the price, so these are precompiled, some of them together (+). A header gets the
# first of which it includes all itself, directly or not: then nothing is hidden that it forgot, because it would have it
# anyway.
core=include/mtpx/kernels/cpu/core
shared=(include/mtpx/kernels.hpp nlohmann/json.hpp include/mtpx/kernels/eigen/views.hpp "$core/simd.hpp+$core/parallel.hpp"
  include/mtpx/core/cpu.hpp include/mtpx/core/error.hpp)
mkdir -p "$out"
for i in "${!shared[@]}"; do
  # shellcheck disable=SC2086
  printf '#include <%s>\n' ${shared[i]//+/ } >"$out/$i.hpp"
done
: >"$out/none.hpp"
printf '%s\n' "${!shared[@]}" |
  xargs -P "$(nproc)" -I{} "${compiler[@]}" -x c++-header "$out/{}.hpp" -o "$out/{}.hpp.gch"

# Where one header includes another, both are compiled in one go, the inner first: what the outer then finds there it
# would have had anyway. So headers are cut into chains, each as long as can be. Lines of: what is precompiled for a
# chain, its headers. Includes under an #if do not count.
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
  function visit(top, from, next_ones, n, i) {
    if ((top, from) in within) return
    within[top, from] = 1
    ++size[top]
    n = split(includes[from], next_ones, " ")
    for (i = 1; i <= n; ++i) visit(top, next_ones[i])
  }
  function has_all(top, group, wanted, n, i) {
    n = split(group, wanted, "+")
    for (i = 1; i <= n; ++i) if (!((top, wanted[i]) in within)) return 0
    return 1
  }
  function largest(top, group, best, h) {  # of those left that a header includes, or of all
    for (h = 1; h <= count; ++h) {
      if (all[h] in done || (top && !((top, all[h]) in within)) || !has_all(all[h], group)) continue
      if (!best || size[all[h]] > size[best]) best = all[h]
    }
    if (best) done[best] = 1
    return best
  }
  FNR == 1 { all[++count] = FILENAME; conditions = 0 }
  /^#if/ { ++conditions }
  /^#endif/ { --conditions }
  /^#include/ && !conditions && match($0, /[<"][^>"]*[>"]/) {
    includes[FILENAME] = includes[FILENAME] " " absolute(substr($0, RSTART + 1, RLENGTH - 2), substr($0, RSTART, 1) == "\"")
  }
  END {
    n = split(shared, names, " ")
    for (h = 1; h <= count; ++h) visit(all[h], all[h])
    while (top = largest("", "")) {
      for (i = 1; i <= n && !has_all(top, names[i]); ++i) {}
      chain = top
      for (inner = top; inner = largest(inner, names[i]);) chain = inner " " chain
      print out "/" (i <= n ? i - 1 : "none") ".hpp", chain
    }
  }' $headers >"$out/chains"
xargs -P "$(nproc)" -L 1 bash -c 'compile "$@"' compile "${compiler[@]}" -- <"$out/chains"
