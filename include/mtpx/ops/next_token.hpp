#pragma once
// From hidden states to tokens, for decoding: the output head without a loss, choice, draws, and which drafts
// stand. No gradients; what comes out stands in the caller's memory, so that a pass can be recorded.

#include <mtpx/autograd/var.hpp>
#include <mtpx/ops/decode_block.hpp>
#include <mtpx/ops/linear.hpp>

#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

namespace mtpx {

/// What turns states into logits: an output head or, where only some tokens may be picked, its rows of these.
template <typename T, typename D>
struct TokenHead {
  Weight<T, D> weight;               ///< [n, hidden], a row a token
  Index vocab = 0;                   ///< V
  Tensor<std::int32_t, D> tokens{};  ///< [n], which these are, ascending; undefined: all, n = V

  TokenHead() = default;
  /// Not explicit: a whole head is one.   w: [V, hidden]
  TokenHead(const Weight<T, D>& w) : weight(w), vocab(w.shape()[0]) {}

  /// A copy of the rows of `ids`, ascending, of a head; of one in 8 bits, the numbers that these stand for.
  /// w: [V, hidden]
  TokenHead(const Weight<T, D>& w, std::span<const std::int32_t> ids)
      : vocab(w.shape()[0]),
        tokens(Tensor<std::int32_t, D>::from(w.device(), {static_cast<Index>(ids.size())}, ids)) {
    const Index n = tokens.size();
    const Tensor<T, D> rows(w.device(), {n, w.shape().width()});
    weight = Weight<T, D>(rows);
    if (w.int8() != nullptr) {
      if constexpr (HostMemory<D>) {
        const Int8Weights all = w.int8()->matrix();
        for (Index i = 0; i < n; ++i) {
          for (Index j = 0; j < all.in; ++j)
            rows.data()[i * all.in + j] = T(all.at<float>(ids[static_cast<std::size_t>(i)], j));
        }
      } else {
        throw DeviceError("[head of some tokens] a weight in 8 bits: this device has no products with them");
      }
      return;
    }
    if (w.packed() != nullptr) {
      if constexpr (HostMemory<D>) {
        const PackedWeights<T> all = w.packed()->matrix();
        for (Index i = 0; i < n; ++i) {
          for (Index j = 0; j < all.in; ++j)
            rows.data()[i * all.in + j] = all.at(ids[static_cast<std::size_t>(i)], j);
        }
      }
      return;
    }
    embedding_forward(w.device(), "head of some tokens", Rows{1, n, n}, tokens.data(), w.rows(), w.data(),
                      rows.data());
  }

  /// How many tokens may be picked.
  Index count() const { return weight.shape()[0]; }
};

namespace detail {
template <typename T, typename D>
using AnyHead = std::type_identity_t<TokenHead<T, D>>;  // T and D are told by what stands beside it
}  // namespace detail

/// logits_r = W x_r, in the type of sums; minus infinity for tokens that the head leaves out: so they have no
/// chance, and the others the noise of their ids.   x: [N, hidden], may be strided   returns [N, V]
template <typename T, typename D>
Tensor<acc_t<T>, D> logits_of(const Tensor<T, D>& x, const detail::AnyHead<T, D>& head) {
  const Tensor<acc_t<T>, D> logits(x.device(), {x.rows().count, head.count()});
  if (head.weight.int8() != nullptr) {
    const Int8Weight<D>& w = *head.weight.int8();
    w.template products<T>().multiply_to_sums("next token", x, w, logits, false);
  } else if (const PackedWeight<T, D>* const packed = head.weight.packed()) {
    packed->logits(x.device(), x.rows(), x.data(), packed->matrix(), logits.data());
  } else {
    linear_forward(x.device(), x.rows(), x.data(), head.count(), head.weight.data(), logits.data());
  }
  if (!head.tokens.defined()) return logits;
  const Tensor<acc_t<T>, D> all(x.device(), {x.rows().count, head.vocab});
  spread_logits(x.device(), logits.rows(), logits.data(), head.tokens.data(), head.vocab, all.data());
  return all;
}

namespace detail {
/// Picks tokens where the device fuses that with the head; whether it did.   draws: null: the most likely
template <typename T, typename D>
bool pick_fused(const Tensor<T, D>& x, const AnyHead<T, D>& head, const Draw* draws, std::int32_t* ids) {
  if constexpr (fuses_decoding<T, D>) {
    if (x.shape().width() % 8 == 0 && x.rows().count <= fused_rows) {
      decode_tokens(x.device(), x.rows(), x.data(), head.count(), head.weight.data(),
                    head.tokens.defined() ? head.tokens.data() : nullptr, draws, ids);
      return true;
    }
  }
  return false;
}
}  // namespace detail

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
/// x: [N, hidden], may be strided   ids: N numbers at least, written
template <typename T, typename D>
void choose_tokens(const Tensor<T, D>& x, const detail::AnyHead<T, D>& head,
                   const Tensor<std::int32_t, D>& ids) {
  if (detail::pick_fused(x, head, nullptr, ids.data())) return;
  const Tensor<acc_t<T>, D> logits = logits_of(x, head);
  argmax_rows(x.device(), logits.rows(), logits.data(), ids.data());
}

/// The token after each row that wins its race (kernels/sampling.hpp), with its own temperature, cuts and
/// noise; or the `best` tokens of it, in their order. Logits are not held where the device fuses the two, one
/// token is asked for and no row cuts.
///
/// x, head: as above   draws: N at least   whole: that no row has a top-k or a top-p   ids: N * best at least
template <typename T, typename D>
void race_tokens(const Tensor<T, D>& x, const detail::AnyHead<T, D>& head, const Tensor<Draw, D>& draws,
                 bool whole, Index best, const Tensor<std::int32_t, D>& ids) {
  if (whole && best == 1 && detail::pick_fused(x, head, draws.data(), ids.data())) return;
  const Tensor<acc_t<T>, D> logits = logits_of(x, head);
  race_rows(x.device(), logits.rows(), logits.data(), draws.data(), best, ids.data());
}

/// The token after each row that wins its race, and its lead: how far its score is above that of the second,
/// infinite where no other token has a chance (see DraftLeads in decode/draft_leads.hpp). Greedy scores are
/// logits.
///
/// x, head, draws: as above   ids, leads: N at least, written
template <typename T, typename D>
requires HostMemory<D>
void race_for_leads(const Tensor<T, D>& x, const detail::AnyHead<T, D>& head, const Tensor<Draw, D>& draws,
                    const Tensor<std::int32_t, D>& ids, const Tensor<double, D>& leads) {
  const Tensor<acc_t<T>, D> logits = logits_of(x, head);
  const Index n = logits.rows().count;
  const Tensor<std::int32_t, D> two(x.device(), {n, 2});
  race_rows(x.device(), logits.rows(), logits.data(), draws.data(), 2, two.data());
  for (Index r = 0; r < n; ++r) {
    const std::int32_t first = two.at(r, 0), second = two.at(r, 1);
    ids.data()[r] = first;
    leads.data()[r] = std::numeric_limits<double>::infinity();
    if (first < 0 || second < 0) continue;
    const Draw& draw = draws.data()[r];
    const auto score = [&](std::int32_t id) {
      return race_score(static_cast<double>(logits.at(r, id)), draw.sampling, draw.noise, id);
    };
    leads.data()[r] = score(first) - score(second);
  }
}

/// The token of one row of logits in the host's memory, of V. Throws what require_token() throws.
template <typename D>
requires HostMemory<D> std::int32_t race_on_host(const D& host, std::span<const double> logits,
                                                 const Draw& draw) {
  std::int32_t id = 0;
  race_rows(host, Rows{1, static_cast<Index>(logits.size()), 0}, logits.data(), &draw, 1, &id);
  return require_token(0, id);
}

/// A token after each row, drawn with its own temperature, cuts and number.
///
/// x, head, ids: as above   draws: N at least   kept: where the distributions are left, if anywhere
template <typename T, typename D>
void draw_tokens(const Tensor<T, D>& x, const detail::AnyHead<T, D>& head, const Tensor<Draw, D>& draws,
                 const Tensor<std::int32_t, D>& ids, const Kept& kept) {
  const Tensor<acc_t<T>, D> logits = logits_of(x, head);
  draw_rows(x.device(), logits.rows(), logits.data(), draws.data(), ids.data(), kept);
}

/// How rounds of drafts end by a rule.   verdicts: rounds.count at least, written
template <typename D>
void settle_rounds(const VerifyRule& rule, const DraftRounds& rounds, const Tensor<Verdict, D>& verdicts) {
  verify_rounds(verdicts.device(), rule, rounds, verdicts.data());
}

}  // namespace mtpx
