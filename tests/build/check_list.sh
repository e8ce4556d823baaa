#!/usr/bin/env bash
# kernels/list.hpp holds devices to their kernels: a twin that is misspelt, or takes something else, does not
# compile, and the compiler names it. The GPU's twins are held to it without nvcc, by their heads alone.
# Usage: check_list.sh REPOSITORY OUT_FOLDER COMPILER [FLAG...]      MTPX_HEADS_ALONE=1: the GPU's heads and no more
set -euo pipefail
cd "$1"
out=$2
compile=("${@:3}" -std=c++20 -I . -I include -fsyntax-only -x c++ -)
mkdir -p "$out"

fail() {
  echo "$1" && exit 1
}
# refuses NAME SOURCE: it does not compile, and what the compiler shows names the kernel NAME.
refuses() {
  "${compile[@]}" <<<"$2" 2>"$out/errors" && fail "a device without $1 compiles"
  grep -qw "$1" "$out/errors" || { cat "$out/errors" && fail "no error names $1"; }
}

# The heads of the functions of namespace mtpx, as declarations.
heads=$(awk '
  /^namespace (mtpx::)?cuda/ { inside = 1 }
  /^}  \/\/ namespace (mtpx::)?cuda/ { inside = 0 }
  inside { next }
  /^template/ { head = $0; next }
  /^(inline )?void / { sub(/^inline /, ""); open = 1 }
  open {
    head = head "\n" $0
    if (/\{$/) { sub(/ \{$/, ";", head); print head; open = 0 }
  }
  !open { head = "" }
' include/mtpx/kernels/cuda/*.cuh include/mtpx/kernels/cuda/decode/*.cuh)
gpu() {
  echo '#include <mtpx/kernels/list.hpp>
namespace mtpx {
class Cuda;
'"$1"'
MTPX_CHECK_KERNELS(Cuda)
MTPX_KERNELS_OF_FUSED_DECODING(MTPX_CHECK_KERNEL, Cuda, bf16)
}'
}
"${compile[@]}" <<<"$(gpu "$heads")" || fail "a kernel of kernels/cuda/ is not what the list says"
[[ -n ${MTPX_HEADS_ALONE-} ]] && exit 0

refuses swiglu_backward '
#define swiglu_backward swiglu_backwards
#include <mtpx/kernels/cpu/swiglu.hpp>
#undef swiglu_backward
#include <mtpx/kernels/cpu/build/check.hpp>'
refuses decode_tokens "$(gpu "${heads//decode_tokens/decode_token}")"
refuses clip_scale "$(gpu "${heads//double max_norm/float max_norm}")"

# A device fuses decoding if it has all the kernels of a fused pass.
"${compile[@]}" <<<'
#include <mtpx/kernels/list.hpp>
namespace mtpx {
struct Complete {};
struct Unfinished {};
MTPX_DECLARE_KERNELS(Complete)
MTPX_DECLARE_FUSED_DECODING(Complete)
MTPX_CHECK_KERNELS(Complete)
template <typename T> void decode_blocks(const Unfinished&, Index, const DecodeBlock<T>*, const T*, T*);
}
#include <mtpx/ops/decode_block.hpp>
using namespace mtpx;
static_assert(fuses_decoding<bf16, Complete> && !fuses_decoding<float, Complete>);
static_assert(!fuses_decoding<bf16, Unfinished> && !fuses_decoding<bf16, Cpu>);
' || fail "fuses_decoding does not ask for all of them"
