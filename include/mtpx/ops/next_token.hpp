#pragma once
// From hidden states to tokens, for decoding: the output head without a loss, choice, draws, and which drafts
// stand. No gradients; what comes out stands in the caller's memory, so that a pass can be recorded.

#include <mtpx/autograd/var.hpp>
#include <mtpx/ops/decode_block.hpp>

#include <cstdint>
#include <span>

namespace mtpx {

/// logits_r = W x_r, in the type of sums.   x: [N, hidden], may be strided   w: [V, hidden]   returns [N, V]
template <typename T, typename D>
Tensor<acc_t<T>, D> logits_of(const Tensor<T, D>& x, const Weight<T, D>& w) {
  const Tensor<acc_t<T>, D> logits(x.device(), {x.rows().count, w.shape()[0]});
  linear_forward(x.device(), x.rows(), x.data(), w.shape()[0], w.data(), logits.data());
  return logits;
}

/// The token that a row was given. Throws NumericError where its logit is not finite, which a negative id
/// says (token_or_not() in kernels/sampling.hpp).
inline std::int32_t require_token(Index row, std::int32_t id) {
  if (id < 0)
    throw NumericError(
        cat("[next token] the logits of row ", row, " are not finite: no token can be chosen by them"));
  return id;
}

/// The most likely token after each row, the lowest id on ties; NaN never wins. Logits are not held where the
/// device fuses the two. Nothing waits for the device: whoever reads an id on the host looks at it with
/// require_token(), of race_tokens() and draw_tokens() too.
///
/// x: [N, hidden], may be strided   w: [V, hidden]   ids: N numbers at least, written
template <typename T, typename D>
void choose_tokens(const Tensor<T, D>& x, const Weight<T, D>& w, const Tensor<std::int32_t, D>& ids) {
  if constexpr (fuses_decoding<T, D>) {
    if (x.shape().width() % 8 == 0 && x.rows().count <= fused_rows)
      return decode_tokens(x.device(), x.rows(), x.data(), w.shape()[0], w.data(), nullptr, ids.data());
  }
  const Tensor<acc_t<T>, D> logits = logits_of(x, w);
  argmax_rows(x.device(), logits.rows(), logits.data(), ids.data());
}

/// The token after each row that wins its race (kernels/sampling.hpp), with its own temperature, cuts and
/// noise. Logits are not held where the device fuses the two and no row cuts.
///
/// x, w, ids: as above   draws: N at least   whole: that no row has a top-k or a top-p
template <typename T, typename D>
void race_tokens(const Tensor<T, D>& x, const Weight<T, D>& w, const Tensor<Draw, D>& draws, bool whole,
                 const Tensor<std::int32_t, D>& ids) {
  if constexpr (fuses_decoding<T, D>) {
    if (whole && x.shape().width() % 8 == 0 && x.rows().count <= fused_rows)
      return decode_tokens(x.device(), x.rows(), x.data(), w.shape()[0], w.data(), draws.data(), ids.data());
  }
  const Tensor<acc_t<T>, D> logits = logits_of(x, w);
  race_rows(x.device(), logits.rows(), logits.data(), draws.data(), ids.data());
}

/// The same from one row of logits in the host's memory, of V. Throws what require_token() throws.
template <typename D>
requires HostMemory<D> std::int32_t race_on_host(const D& host, std::span<const double> logits,
                                                 const Draw& draw) {
  std::int32_t id = 0;
  race_rows(host, Rows{1, static_cast<Index>(logits.size()), 0}, logits.data(), &draw, &id);
  return require_token(0, id);
}

/// A token after each row, drawn with its own temperature, cuts and number.
///
/// x, w, ids: as above   draws: N at least   kept: where the distributions are left, if anywhere
template <typename T, typename D>
void draw_tokens(const Tensor<T, D>& x, const Weight<T, D>& w, const Tensor<Draw, D>& draws,
                 const Tensor<std::int32_t, D>& ids, const Kept& kept) {
  const Tensor<acc_t<T>, D> logits = logits_of(x, w);
  draw_rows(x.device(), logits.rows(), logits.data(), draws.data(), ids.data(), kept);
}

/// How rounds of drafts end by a rule.   verdicts: rounds.count at least, written
template <typename D>
void settle_rounds(const VerifyRule& rule, const DraftRounds& rounds, const Tensor<Verdict, D>& verdicts) {
  verify_rounds(verdicts.device(), rule, rounds, verdicts.data());
}

}  // namespace mtpx
