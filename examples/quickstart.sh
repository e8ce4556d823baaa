#!/usr/bin/env bash
# From a bare machine to a trained model in a few minutes: installs what is missing, builds the program,
# trains the tiny model on this repository's own text, then writes the same text with and without drafts.
# Usage: examples/quickstart.sh [PRESET]     release (default), or cuda for NVIDIA GPUs (needs nvcc)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=examples/install.sh
source examples/install.sh

preset=${1:-release}

say() { printf '\n== %s\n' "$*"; }

say "1. Install what is missing and build"
install_missing "${build_packages[@]}"
configure "$preset" -DMTPX_BUILD_TESTS=OFF
cmake --build "build/$preset" --parallel "$(nproc)" --target mtpx_program

mtpx=build/$preset/bin/mtpx
out=runs/quickstart
rm -rf "$out"

say "2. Train the tiny model: each byte's successor (main) and the byte after it (depth 1)"
"$mtpx" train --preset tiny --out "$out" --steps 200

# Text goes to standard output and the figures to standard error.
generate() { "$mtpx" generate --model "$out" --prompt 'template <typename T' --max-tokens 256 --draft "$1"; }

say "3. Generate, one byte a forward pass (--draft 0)"
generate 0 >"$out/plain.txt" 2>"$out/plain.stats"
cat "$out/plain.txt"

say "4. Generate again, depth 1 drafts and the main model verifies (--draft 1)"
generate 1 >"$out/drafted.txt" 2>"$out/drafted.stats"

# Greedy decoding with drafts must give the very same bytes, or the drafts decide what is written.
if [[ ! -s $out/plain.txt ]] || ! cmp "$out/plain.txt" "$out/drafted.txt"; then
  echo "FAILED: the drafted text is empty or differs from the plain text ($out/plain.txt, $out/drafted.txt)" >&2
  exit 1
fi
echo "The drafted text equals the plain text, byte for byte."

say "Speed without drafts"
cat "$out/plain.stats"
say "Speed with drafts"
cat "$out/drafted.stats"
say "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. The model is in $out; try: $mtpx generate --help"
