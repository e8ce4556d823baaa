#!/usr/bin/env bash
# No build system: two include folders are all it takes.
# Optimised, because some warnings only come then.
# Usage: build.sh COMPILER MTPX_SOURCE EIGEN_INCLUDE OUT_FOLDER
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$4"
"$1" -std=c++20 -O3 -I "$2/include" -isystem "$3" \
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror "$here/../main.cpp" -o "$4/consumer"
"$4/consumer"
