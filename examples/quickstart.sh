#!/usr/bin/env bash
# From a bare machine to a trained model in a few minutes: installs what is missing, builds the program,
# trains a very small model on the King James Version (Debian's bible-kjv; else on this repository's own text), lets
# it write, and shows what drafts bring on books that it has not seen.
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

say "2. Get text: books to train on, and others that nobody trains on"
text=$out/text held_out=$out/held_out
mkdir -p "$out" "$held_out"
if bash examples/corpus.sh "$text"; then
  # None of these tells what another book tells in the same words.
  for book in Ruth Eccl Jonah John Heb; do mv "$text"/*_"$book".txt "$held_out"; done
else
  echo "This repository's own text takes its place."
  mkdir -p "$text"
  git ls-files 'include/*.hpp' 'docs/*.md' | while read -r file; do cp "$file" "$text/${file//\//_}"; done
  mv "$text"/include_mtpx_decode_* "$held_out"
fi

say "3. Learn 2048 tokens (byte-level BPE); train each one's successor (main), and the two after it (depths 1 and 2)"
"$mtpx" train --preset nano --data "$text" --validation-data "$held_out" --out "$out" \
  --steps 1000 --batch 2 --seq 256 --lr 4e-3

# Text goes to standard output and the figures to standard error.
prompt=$(head -n 1 "$(find "$held_out" -type f | sort | head -n 1)" | cut -d ' ' -f 1-12)
generate() { "$mtpx" generate --model "$out" --prompt "$prompt" --max-tokens 80 --temperature 0.5 --draft "$1"; }

say "4. Write, one token a forward pass (--draft 0)"
generate 0 >"$out/plain.txt" 2>"$out/plain.stats"
cat "$out/plain.txt" "$out/plain.stats"

say "5. Write again: the module drafts two tokens, the main model verifies them (--draft 2)"
generate 2 >"$out/drafted.txt" 2>"$out/drafted.stats"
cat "$out/drafted.stats"

# Decoding with drafts must give the very same bytes, or the drafts decide what is written.
if [[ ! -s $out/plain.txt ]] || ! cmp "$out/plain.txt" "$out/drafted.txt"; then
  echo "FAILED: the drafted text is empty or differs from the plain text ($out/plain.txt, $out/drafted.txt)" >&2
  exit 1
fi
echo "The drafted text equals the plain text, byte for byte."

say "6. Speed and acceptance after 24 places of the books that nobody trained on"
for temperature in 0 0.8; do
  "$mtpx" bench --decode --table --model "$out" --data "$held_out" --validation 1 --context 64 --tokens 48 --prompts 24 \
    --temperature "$temperature"
done

say "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. The model is in $out; try: $mtpx generate --help"
