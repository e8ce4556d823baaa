#pragma once
// Blocks in one decoding pass, for devices that fuse them.

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

#include <limits>
#include <span>

namespace mtpx {

// The names of the optional kernels, for builds without a device that has them.
struct NoDevice;
#define MTPX_NAME_KERNEL(name, signature) void name(NoDevice);
MTPX_KERNELS_OF_FUSED_DECODING(MTPX_NAME_KERNEL, , )
#undef MTPX_NAME_KERNEL

/// Whether D has all fused kernels of a decoding pass with activations of type T.
template <typename T, typename D>
inline constexpr bool fuses_decoding = std::is_same_v<T, bf16>
#define MTPX_HAS_KERNEL(name, signature) \
  &&requires(void(*twin) signature) { twin = &name; }
    MTPX_KERNELS_OF_FUSED_DECODING(MTPX_HAS_KERNEL, D, T);
#undef MTPX_HAS_KERNEL

/// Most rows of a decoding pass that have the same bits whatever rows stand beside them. Longer passes are
/// cut.
template <typename T, typename D>
constexpr Index most_alike_rows() {
  if constexpr (HostMemory<D>) {
    return std::numeric_limits<Index>::max();
  } else {
    return fuses_decoding<T, D> ? fused_rows : alike_rows;
  }
}

/// A decoding pass of neighbouring blocks in few launches:  h = x + Mla(norm(x)),  y = h + ffn(norm(h)),
/// where y is the next block's x.
///
/// x: [1, N, hidden] dense, N <= fused_rows, of sizes that decode_fits()   returns [1, N, hidden]
/// Equal to Block's ops one by one up to rounding. A row's bits do not depend on the rows beside it.
/// Inference only.   Throws ShapeError, Error on a recording tape.
template <typename T, typename D>
Var<T, D> decode_blocks(const Var<T, D>& x, std::span<const DecodeBlock<T>> blocks) {
  Tape& tape = tape_of("decode_blocks", x);
  if (tape.recording()) throw Error("[decode_blocks] has no backward; use a tape in inference mode");
  for (const auto& [attention, ffn] : blocks) {
    require(x.value().contiguous() && x.rows().count == attention.rows && attention.rows == ffn.rows &&
                x.shape().width() == attention.hidden && ffn.hidden == attention.hidden,
            "decode_blocks", "x needs one dense row per decoded token",
            {{"x", x}, {"rows", Shape{attention.rows}}}, tape);
  }
  if (blocks.empty()) return x;
  Tensor<T, D> y(x.device(), x.shape());
  decode_blocks(x.device(), static_cast<Index>(blocks.size()), blocks.data(), x.data(), y.data());
  return tape.constant(y);
}

/// What a depth that is told a token reads, in one launch:  y = w [norm(first) ; norm(second)]
/// (DeepSeek-V3 Eq. 21; nn: MtpInput).
///
/// first, second: [1, N, hidden] dense, N <= fused_rows, of sizes that decode_fits()   returns [1, N, hidden]
/// Equal to the ops one by one up to rounding; a row's bits are its own. Inference only.   Throws ShapeError,
/// Error on a recording tape.
template <typename T, typename D>
Var<T, D> decode_inputs(const Var<T, D>& first, const Var<T, D>& second, const DecodeInputs<T>& p) {
  Tape& tape = tape_of("decode_inputs", first, second);
  if (tape.recording()) throw Error("[decode_inputs] has no backward; use a tape in inference mode");
  for (const Var<T, D>* x : {&first, &second}) {
    require(x->value().contiguous() && x->rows().count == p.rows && x->shape().width() == p.hidden,
            "decode_inputs", "needs one dense row of each per decoded token",
            {{"first", first}, {"second", second}, {"rows", Shape{p.rows}}}, tape);
  }
  Tensor<T, D> y(first.device(), first.shape());
  decode_inputs(first.device(), p, first.data(), second.data(), y.data());
  return tape.constant(y);
}

}  // namespace mtpx
