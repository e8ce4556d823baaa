#!/usr/bin/env bash
# A file pays for what it uses: a training loop's object holds nothing of distillation, decoding, several ranks,
# weights in 8 bits or packed, or files.
# Usage: check_loop.sh OBJECT
set -euo pipefail
symbols=$(nm -C --defined-only "$1")
for used in linear_cross_entropy attention_backward AdamW; do
  grep -q "$used" <<<"$symbols" || { echo "$1: not the object of a loop, it lacks $used" && exit 1; }
done
unused='linear_distillation|taught_loss|Speculator|mtpx::Passes<|latent_attention|StagePass|TrainStep|Shards<'
unused+='|experts_across|multiply_int8|pack_weights|linear_packed|std::filesystem|read_corpus'
found=$(grep -E "$unused" <<<"$symbols" | cut -c1-160 || true)
[[ -z $found ]] || { printf 'compiled by a loop that does not use it:\n%s\n' "$found" && exit 1; }
