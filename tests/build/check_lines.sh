#!/usr/bin/env bash
# A source file has fewer than 500 lines: one that grows past it holds two ideas.
# Usage: check_lines.sh REPOSITORY
set -euo pipefail
cd "$1"

find CMakeLists.txt include instances tests examples -type f \
  \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' -o -name '*.sh' -o -name 'CMakeLists.txt' \) \
  -exec awk '
    FNR == 500 { print FILENAME ": 500 lines or more"; long = 1 }
    END { exit long }
  ' {} +
