#pragma once
// What draws a student's distribution q to a teacher's p, number by number and row by row: written once for
// every device.

#include "formulas.hpp"
#include "shapes.hpp"

namespace mtpx {

/// How far a distribution q is from another one, p.
enum class Divergence {
  cross_entropy,   ///< -sum_v p_v log q_v
  kl,              ///< sum_v p_v (log p_v - log q_v) (Kullback & Leibler 1951): that, less p's own entropy
  total_variation  ///< sum_v |p_v - q_v| / 2: 1 less the share of drafts that the exact rule lets stand
};

/// What a student learns from: the distributions p of a teacher's output head over the same rows.
template <typename T>
struct Teaching {
  Divergence divergence{};  ///< how far q is said to be from p
  acc_t<T> share{};         ///< of the divergence in the loss; the rest is the labels' cross-entropy
  Rows rows;                ///< of x, as many as the student has, of any width D'
  const T* x = nullptr;     ///< [N, D']
  const T* w = nullptr;     ///< [V, D']

  /// Whether the sums over q and p come before what a row loses: a second way through the vocabulary.
  bool twice() const { return divergence == Divergence::total_variation; }
};

/// One row of a student and its teacher.
template <typename A>
struct TaughtRow {
  Divergence divergence{};  ///< see Teaching
  A share{};                ///< see Teaching
  A lse{};                  ///< log sum_v e^z_v of the student's logits z
  A teacher_lse{};          ///< the same of the teacher's

  /// What a token costs, whose mean over p is the divergence up to lse() of both: -z, or the teacher's z less
  /// it.
  template <typename V>
  MTPX_ANYWHERE static V cost(Divergence divergence, V student, V teacher) {
    return divergence == Divergence::kl ? teacher - student : -student;
  }
  /// That divergence: not the total variation.
  MTPX_ANYWHERE A divergence_by(A mean_cost) const {
    return mean_cost + (divergence == Divergence::kl ? lse - teacher_lse : lse);
  }

  /// q_v, of the student's logit.
  template <typename V>
  MTPX_ANYWHERE V student_of(V logit) const {
    return exact::exp(logit - exact::all<V>(lse));
  }
  /// p_v, of the teacher's.
  template <typename V>
  MTPX_ANYWHERE V teacher_of(V logit) const {
    return exact::exp(logit - exact::all<V>(teacher_lse));
  }

  /// What the row loses.   of_label: the cross-entropy of its label
  MTPX_ANYWHERE A loss(A by_divergence, A of_label) const {
    return exact::fma(share, by_divergence, exact::product(A(1) - share, of_label));
  }

  /// q_v sign(q_v - p_v), whose sum is `slope` below; 0 where the two are equal.
  template <typename V>
  MTPX_ANYWHERE static V signed_share(V q, V p) {
    return q > p ? q : q < p ? -q : exact::all<V>(0);
  }

  /// `weight` times the derivative of the row's loss in a student's logit, but for the label's own part
  /// -weight (1 - share):
  ///
  ///   share (q_v - p_v) + (1 - share) q_v
  ///   share q_v (sign(q_v - p_v) - slope) / 2 + (1 - share) q_v    with the total variation
  template <typename V>
  MTPX_ANYWHERE V gradient(V student, V teacher, A slope, A weight) const {
    const V q = student_of(student), p = teacher_of(teacher);
    V pull = q - p;
    if (divergence == Divergence::total_variation) {
      const V one = exact::all<V>(1), sign = q > p ? one : q < p ? -one : exact::all<V>(0);
      pull = exact::product(exact::product(exact::all<V>(A(0.5)), q), sign - exact::all<V>(slope));
    }
    const V all = exact::fma(exact::all<V>(share), pull, exact::product(exact::all<V>(A(1) - share), q));
    return exact::product(exact::all<V>(weight), all);
  }
  /// What the label's own derivative has less.
  MTPX_ANYWHERE A of_label(A weight) const { return exact::product(weight, A(1) - share); }
};

}  // namespace mtpx
