#!/usr/bin/env bash
# The floors of docs/architecture.md: an include points down or stays on its floor, never up. And modules, models
# and decoding are made of ops: they call no kernel.
# Usage: check_floors.sh REPOSITORY
set -euo pipefail
cd "$1"
status=0

find include instances -type f \( -name '*.hpp' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu' \) -exec awk '
  # Floor of a file, named from include/ ("mtpx/core/shape.hpp") or from the repository ("instances/...").
  function floor_of(name) {
    if (name ~ /^(mtpx\/(mtpx|text|distributed|instances|io\/instances)\.hpp$|instances\/)/) return 8
    if (name ~ /^mtpx\/(core|comm)\// || name == "mtpx/version.hpp") return 0
    if (name ~ /^mtpx\/kernels\// || name ~ /^mtpx\/(kernels|reference)\.hpp$/) return 1
    if (name ~ /^mtpx\/autograd\//) return 2
    if (name ~ /^mtpx\/ops\//) return 3
    if (name ~ /^mtpx\/nn\//) return 4
    if (name ~ /^mtpx\/mtp\//) return 5
    if (name ~ /^mtpx\/model\//) return 6
    if (name ~ /^mtpx\/(text|train|decode|io)\//) return 7
    return -1
  }
  function complain(rule) {
    print FILENAME ":" FNR ": " rule ": " $0
    broken = 1
  }

  FNR == 1 {
    file = FILENAME
    sub(/^include\//, "", file)
    floor = floor_of(file)
    if (floor < 0) complain("this folder has no floor yet, give it one in check_floors.sh")
  }

  /^[ \t]*#[ \t]*include/ {
    match($0, /[<"][^>"]*[>"]/)
    quoted = substr($0, RSTART, 1) == "\""
    name = substr($0, RSTART + 1, RLENGTH - 2)

    if (name ~ /^mtpx\//) {
      if (floor_of(name) < 0) complain("include of a folder without a floor")
      if (floor_of(name) > floor) complain("include points up")
      if (file ~ /^mtpx\/(nn|mtp|model|decode)\// && floor_of(name) == 1) complain("made of ops, never of kernels")
      if (name == "mtpx/reference.hpp" && file !~ /^(mtpx\/kernels\/eigen|instances)\//) complain("only who compares includes the reference")
      if (name ~ /^mtpx\/io\// && file !~ /^(mtpx\/io|instances)\//) complain("only io includes io")
    } else if (quoted) {
      # Kernels include their siblings; the doors to them are kernels.hpp and reference.hpp.
      if (floor != 1) complain("write <mtpx/...>")
      if (name ~ /include\//) complain("write <mtpx/...>")
    } else if (file ~ /^mtpx\/core\// && name !~ /^[a-z_]+$/ && file !~ /cuda|core\/(eigen|planned|clock|thread)/) {
      complain("core knows only the standard library and core")
    }

    if (name ~ /^(Eigen|unsupported)\// && file !~ /^kernels\/eigen\// && file != "mtpx/core/eigen.hpp")
      complain("Eigen stays inside kernels/eigen and core/eigen.hpp")
    if (name ~ /^nlohmann\// && file !~ /^mtpx\/io\//) complain("nlohmann_json stays inside io and examples")
    if (name == "pcre2.h" && file != "mtpx/text/pcre2.hpp") complain("PCRE2 stays inside text/pcre2.hpp")
    if (name == "mtpx/text/pcre2.hpp" && file !~ /^mtpx\/io\//) complain("who has no PCRE2 compiles all but io")
    if (name ~ /^CLI\//) complain("CLI11 stays inside examples")
  }

  END { exit broken }
' {} + || status=1

# The kernels are what takes a device first. An op may have the name of a kernel; then the device tells them apart.
kernels=$(sed -nE 's/^(inline )?void ([a-z_]+)\(const Cpu&.*/\2/p' include/mtpx/kernels/cpu/*.hpp
  sed -nE 's/^void (decode_[a-z_]+)\(const Cuda&.*/\1/p' include/mtpx/kernels/cuda/decode/*.cuh)
ops=$(sed -nE 's/^[A-Za-z].* ([a-z_]+)\(.*/\1/p' include/mtpx/ops/*.hpp)
if (($(wc -w <<<"$kernels") < 40)); then
  echo "the definitions of kernels have changed their form: check_floors.sh finds too few"
  status=1
fi
for kernel in $(sort -u <<<"$kernels"); do
  call="\\b$kernel(<[^()]*>)?\\("
  if grep -qx "$kernel" <<<"$ops"; then call+='([A-Za-z_]+(\(\))?(\.|->))*(device_?(\(\))?|d|cpu|cuda)[,)]'; fi
  if grep -rnE "^[^/]*$call" include/mtpx/{nn,mtp,model,decode}; then
    echo "  ^ calls the kernel $kernel: modules, models and decoding are made of ops"
    status=1
  fi
done
exit "$status"
