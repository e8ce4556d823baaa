#!/usr/bin/env bash
# The consumers' program, with the flags that an installed mtpx.pc gives.
# Usage: build.sh COMPILER INSTALL_PREFIX OUT_FOLDER
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$3"
export PKG_CONFIG_PATH="$2/share/pkgconfig"
read -ra flags <<<"$(pkg-config --cflags --libs mtpx)"
"$1" -std=c++20 "$here/../main.cpp" "${flags[@]}" -o "$3/consumer"
"$3/consumer"
