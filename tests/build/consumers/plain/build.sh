#!/usr/bin/env bash
# No build system: one include folder is all it takes.
# Usage: build.sh "LAUNCHER... COMPILER FLAG..." INCLUDE_FOLDER OUT_FOLDER
set -euo pipefail
read -ra compile <<<"$1"

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$3"
"${compile[@]}" -I "$2" -c "$here/../main.cpp" -o "$3/main.o"
"${compile[@]}" -pthread "$3/main.o" -o "$3/consumer"
"$3/consumer"
