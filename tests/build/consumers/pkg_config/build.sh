#!/usr/bin/env bash
# The consumers' program, with the flags that an installed mtpx.pc gives.
# Usage: build.sh "LAUNCHER... COMPILER FLAG..." INSTALL_PREFIX OUT_FOLDER
set -euo pipefail
read -ra compile <<<"$1"

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$3"
export PKG_CONFIG_PATH="$2/share/pkgconfig"
read -ra cflags <<<"$(pkg-config --cflags mtpx)"
read -ra libs <<<"$(pkg-config --libs mtpx)"
"${compile[@]}" "${cflags[@]}" -c "$here/../main.cpp" -o "$3/main.o"
"${compile[@]}" "$3/main.o" "${libs[@]}" -o "$3/consumer"
"$3/consumer"
