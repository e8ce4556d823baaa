#!/usr/bin/env bash
# docs/add_an_op.md tells all of it. In a copy of the sources an op `gated` is added by its table, with swiglu as the
# model: a file that bears swiglu's name is copied under the new one, in any other each line about it is said again.
# Then the op is there, behind all doors, with kernels of the CPU, the reference and, by their heads, the GPU, and in the
# docs; it computes what swiglu does. And every file that names a part of swiglu is in the table.
# Usage: check_add_an_op.sh REPOSITORY OUT_FOLDER COMPILER [FLAG...]
set -euo pipefail
cd "$1"
out=$2
compile=("${@:3}" -std=c++20 -pthread -O0 -I include)
fail() {
  echo "$1" && exit 1
}

# The files of the table.
files=$(awk -F'|' '/^\| `/ && $2 ~ /`(include|tests|docs)\// { print $2 }
  /^\| call/ { exit }' docs/add_an_op.md | grep -oE '`[^`]+`' | tr -d '`')
(($(wc -w <<<"$files") >= 15)) || fail "docs/add_an_op.md has no table of files"

# Beside those who use it: modules, experts, tests of theirs and of the tape.
named=$(grep -rlE 'swiglu_(forward|backward|composed)|[/"]swiglu\.(hpp|cuh)|\bswiglu<|reference::swiglu|^Numbers swiglu' \
  include tests docs/ops.md docs/memory.md docs/where.md docs/notation.md | grep -vE 'experts|/nn/|/autograd/|tests/build/')
for file in $named; do
  grep -qxF "$file" <<<"$files" || fail "$file names swiglu, and docs/add_an_op.md does not name it"
done

rm -rf "$out" && mkdir -p "$out"
cp -r include instances docs "$out"
mkdir -p "$out/tests" && cp -r tests/build "$out/tests"
for file in $files; do
  [[ $file == tests/* ]] && continue  # what tests an op is not what makes it
  rename='s/swiglu/gated/g; s/SwiGlu/Gated/g'
  if [[ $file == *swiglu* ]]; then
    sed "$rename; s/Silu/GatedSilu/g" "$file" >"$out/${file//swiglu/gated}"
    continue
  fi
  # A statement is said again when its parentheses are closed; a row of a table at once.
  awk -v prose="$([[ $file == *.md ]] && echo 1)" '
    { said = said $0 "\n"; open += gsub(/\(/, "(") - gsub(/\)/, ")") }
    prose && !/^\|/ { printf "%s", said; said = ""; open = 0; next }
    !prose && open > 0 { next }
    {
      printf "%s", said
      if (said ~ /swiglu/) { gsub(/swiglu/, "gated", said); gsub(/SwiGlu/, "Gated", said); printf "%s", said }
      said = ""; open = 0
    }' "$file" >"$out/$file"
done
# The GPU says its formula once, in core/silu.cuh; so does the reference, whose copy has another name.
sed -i 's/GatedSilu</Silu</g; s/gated_of/swiglu_of/g' "$out/include/mtpx/kernels/cuda/gated.cuh" "$out/include/mtpx/kernels/cpu/gated.hpp"

cd "$out"
for door in kernels/cuda/build/typed.cuh mtpx.hpp instances.hpp; do
  grep -q gated "include/mtpx/$door" || fail "$door does not know the new op"
done
for check in floors ops list; do
  MTPX_HEADS_ALONE=1 bash "tests/build/check_$check.sh" . "$out/$check" "${@:3}" || fail "check_$check.sh fails"
done

cat >user.cpp <<'END'
#include <mtpx/core/cpu.hpp>
#include <mtpx/ops/gated.hpp>
#include <mtpx/ops/reduce.hpp>
#include <mtpx/ops/swiglu.hpp>
#include <mtpx/reference.hpp>

#include <cmath>
#include <cstdio>

template <typename T, typename D, typename Op>
std::vector<T> numbers(const D& device, const Op& op) {
  mtpx::Tape tape;
  std::vector<T> g, u;
  for (int i = 0; i < 35; ++i) g.push_back(static_cast<T>(std::sin(i))), u.push_back(static_cast<T>(i) / 7);
  const auto gate = tape.input(mtpx::Tensor<T, D>::from(device, {5, 7}, g));
  const auto up = tape.input(mtpx::Tensor<T, D>::from(device, {5, 7}, u));
  const auto y = op(gate, up);
  tape.backward(mean(y));
  std::vector<T> all = y.value().to_host();
  for (const auto& x : {gate, up}) {
    const auto d = x.grad().to_host();
    all.insert(all.end(), d.begin(), d.end());
  }
  return all;
}

int main() {
  const auto gated = [](const auto& g, const auto& u) { return mtpx::gated(g, u); };
  const auto swiglu = [](const auto& g, const auto& u) { return mtpx::swiglu(g, u); };
  const auto composed = [](const auto& g, const auto& u) { return mtpx::gated_composed(g, u); };
  const auto want = numbers<double>(mtpx::Cpu(1), swiglu);
  if (numbers<double>(mtpx::Cpu(1), gated) != want) return std::puts("gated is not swiglu"), 1;
  const auto by_reference = numbers<double>(mtpx::Reference(), gated), by_parts = numbers<double>(mtpx::Cpu(1), composed);
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (!(std::abs(by_reference[i] - want[i]) < 1e-12)) return std::puts("the reference differs"), 1;
    if (!(std::abs(by_parts[i] - want[i]) < 1e-12)) return std::puts("its parts differ"), 1;
  }
}
END
"${compile[@]}" user.cpp -o user
./user
