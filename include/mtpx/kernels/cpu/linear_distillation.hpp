#pragma once

#include "../distillation.hpp"
#include "linear_cross_entropy.hpp"

namespace mtpx {

namespace cpu {

/// Merges a row's logits of a chunk, the student's and its teacher's, into the teacher's running maximum, sum
/// and sum of costs; the last ones turn these into teacher_lse and the mean cost. See merge_logits().
template <typename A>
inline void merge_teacher(Divergence divergence, const A* student, const A* teacher, Index width, Index v,
                          Index vocab, A& top, A& lse, A& costs) {
  if (v == 0) {
    lse = costs = A(0);
    top = -std::numeric_limits<A>::infinity();
  }
  A highest = top;
  for (Index c = 0; c < width; ++c) highest = teacher[c] > highest ? teacher[c] : highest;
  RowSum<A> total, cost;
  for (Index c = 0; c < width; c += lanes<A>) {
    const Index left = width - c;
    const Vec<A> e = exp_up_to(teacher + c, left, highest);
    total.add(c, e);
    cost.add_product(
        c, e, TaughtRow<A>::cost(divergence, load_up_to(student + c, left), load_up_to(teacher + c, left)));
  }
  const A shrink = lse == A(0) ? A(0) : exact::exp(top - highest);
  lse = fma(lse, shrink, total.total());
  costs = fma(costs, shrink, cost.total());
  top = highest;
  if (v + width < vocab) return;
  costs /= lse;
  lse = highest + exact::log(lse);
}

/// Adds what a chunk has of sum_v |p_v - q_v| and of sum_v q_v sign(q_v - p_v).
template <typename A>
inline void measure_variation(const TaughtRow<A>& row, const A* student, const A* teacher, Index width,
                              A& apart, A& slope) {
  RowSum<A> distance, signs;
  for (Index c = 0; c < width; c += lanes<A>) {
    const Index left = width - c;
    Vec<A> q = row.student_of(load_up_to(student + c, left));
    Vec<A> p = row.teacher_of(load_up_to(teacher + c, left));
    for (Index l = left; l < lanes<A>; ++l) q[static_cast<int>(l)] = p[static_cast<int>(l)] = A(0);
    distance.add(c, max(q - p, p - q));
    signs.add(c, row.signed_share(q, p));
  }
  apart += distance.total();
  slope += signs.total();
}

}  // namespace cpu

/// What a student's rows lose against their teacher, without ever holding [N, V] logits of either: chunks of
/// rows and vocabulary; the total variation goes through the vocabulary twice.
///   x: [N, D] strided   w: [V, D]   labels: [N], below 0 = ignored   teaching: see there
///   saved: [3, N], for backward: lse, the teacher's, and sum_v q_v sign(q_v - p_v) of the total variation
///   row_loss: [N] = share * divergence + (1 - share) * (lse - logit[label]), 0 where ignored
///   argmax: [N], the student's, lowest index on ties
template <typename T>
void linear_distillation_forward(const Cpu& cpu, const Teaching<T>& teaching, Rows rows, const T* x,
                                 Index vocab, const T* w, const std::int32_t* labels, acc_t<T>* saved,
                                 acc_t<T>* row_loss, std::int32_t* argmax) {
  using A = acc_t<T>;
  cpu::check_ids("linear_distillation", {1, rows.count, rows.count}, labels,
                 std::numeric_limits<std::int32_t>::min(), vocab);
  A *const lse = saved, *const teacher_lse = saved + rows.count, *const slope = saved + 2 * rows.count;
  const Index chunk = cpu::logit_chunk(vocab), most = std::min(cpu::row_chunk, rows.count);
  const cpu::Workspace<A> student(cpu, most * chunk), teacher(cpu, most * chunk);
  const cpu::Workspace<A> top(cpu, rows.count), teacher_top(cpu, rows.count);
  const auto taught = [&](Index r) {
    return TaughtRow<A>{teaching.divergence, teaching.share, lse[r], teacher_lse[r]};
  };
  for (Index first = 0; first < rows.count; first += cpu::row_chunk) {
    const Index count = std::min(cpu::row_chunk, rows.count - first);
    const auto multiply = [&](Rows r, const T* from, const T* head, Index v, Index columns, A* to) {
      cpu::multiply(cpu, cpu::Product<T, T, A>{count, columns, r.width,
                                               cpu::row_major(from + first * r.stride, r.stride),
                                               cpu::transposed(head + v * r.width, r.width), to, chunk});
    };
    for (const bool again : {false, true}) {
      if (again && !teaching.twice()) break;
      for (Index v = 0; v < vocab; v += chunk) {
        const Index columns = std::min(chunk, vocab - v);
        if (!again || chunk < vocab) {
          multiply(rows, x, w, v, columns, student.data());
          multiply(teaching.rows, teaching.x, teaching.w, v, columns, teacher.data());
        }
        cpu::parallel_chunks(cpu, count, 24 * columns, [&](Index begin, Index end) {
          for (Index i = begin; i < end; ++i) {
            const Index r = first + i;
            const A *const z = student.data() + i * chunk, *const y = teacher.data() + i * chunk;
            const bool last = v + columns == vocab;
            A by_divergence;
            if (!again) {
              cpu::merge_logits(z, columns, v, vocab, labels[r], top.data()[r], lse[r], row_loss[r],
                                argmax[r]);
              cpu::merge_teacher(teaching.divergence, z, y, columns, v, vocab, teacher_top.data()[r],
                                 teacher_lse[r], slope[r]);
              if (!last || teaching.twice()) continue;
              by_divergence = taught(r).divergence_by(slope[r]);
            } else {
              A& apart = teacher_top.data()[r];
              if (v == 0) apart = slope[r] = A(0);
              cpu::measure_variation(taught(r), z, y, columns, apart, slope[r]);
              by_divergence = apart / 2;
            }
            if (last) row_loss[r] = labels[r] < 0 ? A(0) : taught(r).loss(by_divergence, row_loss[r]);
          }
        });
      }
    }
  }
}

/// dlogits as TaughtRow::gradient() has them, times factor * dloss, 0 where ignored, computed again chunk by
/// chunk;  dx = dlogits W, dW = dlogits^T x.
template <typename T>
void linear_distillation_backward(const Cpu& cpu, const Teaching<T>& teaching, Rows rows, const T* x,
                                  Index vocab, const T* w, const std::int32_t* labels, const acc_t<T>* saved,
                                  const acc_t<T>* factor, const acc_t<T>* dloss, Sink<T> dx,
                                  Sink<acc_t<T>> dw) {
  using A = acc_t<T>;
  const A scale = *factor * *dloss;
  const Index chunk = cpu::logit_chunk(vocab), n = rows.count;
  const Rows& from = teaching.rows;
  const cpu::Workspace<A> teacher(cpu, std::min(cpu::row_chunk, n) * chunk);
  cpu::differentiate_chunks(
      cpu, rows, x, vocab, w, dx, dw, [&](Index first, Index count, Index v, Index columns, A* logits) {
        cpu::multiply(cpu,
                      cpu::Product<T, T, A>{count, columns, from.width,
                                            cpu::row_major(teaching.x + first * from.stride, from.stride),
                                            cpu::transposed(teaching.w + v * from.width, from.width),
                                            teacher.data(), chunk});
        cpu::parallel_chunks(cpu, count, 16 * columns, [&](Index begin, Index end) {
          for (Index i = begin; i < end; ++i) {
            A* const z = logits + i * chunk;  // [columns]
            const A* const y = teacher.data() + i * chunk;
            const Index r = first + i;
            const A weight = labels[r] < 0 ? A(0) : scale;
            const TaughtRow<A> row{teaching.divergence, teaching.share, saved[r], saved[n + r]};
            for (Index c = 0; c < columns; c += cpu::lanes<A>) {
              const Index left = columns - c;
              const cpu::Vec<A> d = row.gradient(cpu::load_up_to(z + c, left), cpu::load_up_to(y + c, left),
                                                 saved[2 * n + r], weight);
              cpu::store_up_to(z + c, d, left);
            }
            if (labels[r] >= v && labels[r] < v + columns) z[labels[r] - v] -= row.of_label(weight);
          }
        });
      });
}

}  // namespace mtpx
