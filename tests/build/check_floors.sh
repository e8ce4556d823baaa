#!/usr/bin/env bash
# The floors of docs/architecture.md: an include points down or stays on its floor, never up.
# Usage: check_floors.sh REPOSITORY
set -euo pipefail
cd "$1"

find include kernels -type f \( -name '*.hpp' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu' \) -exec awk '
  # Floor of a file, named from include/ ("mtpx/core/shape.hpp") or from the repository ("kernels/...").
  function floor_of(name) {
    if (name ~ /^mtpx\/core\// || name == "mtpx/version.hpp") return 0
    if (name ~ /^kernels\// || name ~ /^mtpx\/(kernels|reference)\.hpp$/) return 1
    if (name ~ /^mtpx\/autograd\//) return 2
    if (name ~ /^mtpx\/ops\//) return 3
    if (name ~ /^mtpx\/nn\//) return 4
    if (name ~ /^mtpx\/(mtp|model)\//) return 5
    if (name ~ /^mtpx\/(train|decode|io)\//) return 6
    if (name == "mtpx/mtpx.hpp") return 7
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
      if (file ~ /^mtpx\/nn\// && floor_of(name) == 1) complain("nn is made of ops, never of kernels")
      if (name == "mtpx/reference.hpp" && file !~ /^kernels\/eigen\//) complain("only who compares includes the reference")
      if (name ~ /^mtpx\/io\// && file !~ /^mtpx\/io\//) complain("only io includes io")
    } else if (quoted) {
      # Kernels include their siblings; the doors from include/ to kernels/ are kernels.hpp and reference.hpp.
      if (floor != 1) complain("write <mtpx/...>")
      if (name ~ /include\//) complain("write <mtpx/...>")
    } else if (file ~ /^mtpx\/core\// && name !~ /^[a-z_]+$/ && file !~ /cuda|core\/eigen/) {
      complain("core knows only the standard library and core")
    }

    if (name ~ /^(Eigen|unsupported)\// && file !~ /^kernels\/(cpu|eigen)\// && file != "mtpx/core/eigen.hpp")
      complain("Eigen stays inside kernels/cpu, kernels/eigen and core/eigen.hpp")
    if (name ~ /^nlohmann\// && file !~ /^mtpx\/io\//) complain("nlohmann_json stays inside io and examples")
    if (name ~ /^CLI\//) complain("CLI11 stays inside examples")
  }

  END { exit broken }
' {} +
