#include "support/reference.hpp"

#include <mtpx/reference.hpp>

namespace mtpx::test::reference {

namespace {

const Reference& host() {
  static const Reference device;
  return device;
}
Numbers zeros(Index count) { return Numbers(static_cast<std::size_t>(count), 0.0); }
Index size(const Numbers& x) { return static_cast<Index>(x.size()); }

}  // namespace

Numbers linear(const Numbers& x, const Numbers& w, Index in, Index out) {
  const Index rows = size(x) / in;
  Numbers y = zeros(rows * out);
  linear_forward(host(), Rows{rows, in, in}, x.data(), out, w.data(), y.data());
  return y;
}

Numbers rms_norm(const Numbers& x, const Numbers& gain, double eps) {
  const Index width = size(gain), rows = size(x) / width;
  Numbers y = zeros(size(x)), r = zeros(rows);
  rms_norm_forward(host(), Rows{rows, width, width}, x.data(), gain.data(), eps, y.data(), r.data());
  return y;
}

Numbers sigmoid(Numbers x) {
  unary_forward(host(), Unary::sigmoid, 1.0, 0.0, Rows{1, size(x), size(x)}, x.data(), x.data());
  return x;
}

Numbers softmax(const Numbers& x, Index width) {
  Numbers y = zeros(size(x));
  softmax_forward(host(), Rows{size(x) / width, width, width}, false, x.data(), y.data());
  return y;
}

Numbers swiglu(const Numbers& gate, const Numbers& up) {
  Numbers y = zeros(size(gate));
  swiglu_forward(host(), size(gate), gate.data(), up.data(), y.data());
  return y;
}

Numbers rope(const Numbers& x, Index heads, Index width, Index rope, const Ints& positions, double base) {
  // One entry of the table a row, made for its position.
  const auto rows = static_cast<Index>(positions.size()), pairs = rope / 2;
  Numbers cos = zeros(rows * pairs), sin = cos, y = zeros(size(x));
  Ints places;
  for (Index r = 0; r < rows; ++r) {
    places.push_back(static_cast<std::int32_t>(r));
    for (Index j = 0; j < pairs; ++j) {
      const double angle =
          nth(positions, r) * std::pow(base, -2.0 * static_cast<double>(j) / static_cast<double>(rope));
      nth(cos, r * pairs + j) = std::cos(angle);
      nth(sin, r * pairs + j) = std::sin(angle);
    }
  }
  rope_apply(host(), Rows{rows, heads * width, heads * width}, heads, rope, x.data(), places.data(),
             cos.data(), sin.data(), 1, Sink<double>{y.data()});
  return y;
}

Attention::Attention(AttentionShape s, const Numbers& q, const Numbers& kv, const Numbers& k_rope,
                     const Ints& positions, double scale, const Numbers& d_o)
    : o(zeros(s.batch * s.time * s.heads * s.v)) {
  const std::int32_t* const at = positions.empty() ? nullptr : positions.data();
  Numbers lse = zeros(s.batch * s.heads * s.time);
  attention_forward(host(), s, q.data(), kv.data(), k_rope.data(), at, scale, o.data(), lse.data());
  if (d_o.empty()) return;
  dq = zeros(size(q)), dkv = zeros(size(kv)), dk_rope = zeros(size(k_rope));
  attention_backward(host(), s, q.data(), kv.data(), k_rope.data(), at, scale, o.data(), lse.data(),
                     d_o.data(), Sink<double>{dq.data()}, Sink<double>{dkv.data()},
                     Sink<double>{dk_rope.data()});
}

CrossEntropy::CrossEntropy(const Numbers& x, const Numbers& w, const Ints& labels, Index width,
                           Index fixed_divisor)
    : row_loss(zeros(size(x) / width)), dx(zeros(size(x))), dw(zeros(size(w))), argmax(row_loss.size()) {
  const Rows rows{size(x) / width, width, width};
  const Index vocab = size(w) / width;
  const double dloss = 1;
  double factor = 0;
  Numbers lse = row_loss;
  linear_cross_entropy_forward(host(), rows, x.data(), vocab, w.data(), labels.data(), lse.data(),
                               row_loss.data(), argmax.data());
  cross_entropy_mean(host(), rows.count, row_loss.data(), labels.data(), fixed_divisor, &loss, &factor);
  linear_cross_entropy_backward(host(), rows, x.data(), vocab, w.data(), labels.data(), lse.data(), &factor,
                                &dloss, Sink<double>{dx.data()}, Sink<double>{dw.data()});
}

Distillation::Distillation(const Numbers& x, const Numbers& w, const Numbers& teacher_x,
                           const Numbers& teacher_w, const Ints& labels, Index width, Divergence divergence,
                           double share, Index fixed_divisor)
    : row_loss(zeros(size(x) / width)), dx(zeros(size(x))), dw(zeros(size(w))), argmax(row_loss.size()) {
  const Rows rows{size(x) / width, width, width};
  const Index vocab = size(w) / width, other = size(teacher_w) / vocab;
  const Teaching<double> teaching{
      divergence, share, {rows.count, other, other}, teacher_x.data(), teacher_w.data()};
  const double dloss = 1;
  double factor = 0;
  Numbers saved = zeros(3 * rows.count);
  linear_distillation_forward(host(), teaching, rows, x.data(), vocab, w.data(), labels.data(), saved.data(),
                              row_loss.data(), argmax.data());
  cross_entropy_mean(host(), rows.count, row_loss.data(), labels.data(), fixed_divisor, &loss, &factor);
  linear_distillation_backward(host(), teaching, rows, x.data(), vocab, w.data(), labels.data(), saved.data(),
                               &factor, &dloss, Sink<double>{dx.data()}, Sink<double>{dw.data()});
}

Route::Route(const Numbers& scores, const Numbers& bias, const Routing& r) {
  const Index tokens = size(scores) / r.n_experts;
  weights = zeros(tokens * r.top_k);
  ids.resize(weights.size());
  route_forward(host(), tokens, r, scores.data(), bias.empty() ? nullptr : bias.data(), ids.data(),
                weights.data());
}

double balance_loss(const Numbers& scores, Index batch, Index time, Index experts, Index top_k,
                    double alpha) {
  double loss = 0;
  Numbers f = zeros(batch * experts);
  balance_forward(host(), batch, time, experts, top_k, alpha, scores.data(), &loss, f.data());
  return loss;
}

Numbers experts(ExpertsShape s, const Numbers& x, const Numbers& weights, const Ints& ids,
                const Numbers& gate, const Numbers& up, const Numbers& down) {
  Ints offsets(static_cast<std::size_t>(s.experts + 1)), slot(ids.size()), place(ids.size());
  plan_experts<double>(host(), s.slots(), s.experts, ids.data(), offsets.data(), slot.data(), place.data(),
                       nullptr);
  Numbers hidden_gate = zeros(s.slots() * s.inner), hidden_up = hidden_gate, y = zeros(s.tokens * s.width);
  experts_forward(host(), s, offsets.data(), slot.data(), place.data(), x.data(), s.width, weights.data(),
                  gate.data(), up.data(), down.data(), hidden_gate.data(), hidden_up.data(), y.data());
  return y;
}

}  // namespace mtpx::test::reference
