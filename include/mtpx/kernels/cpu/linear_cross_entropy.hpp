#pragma once

#include "elementwise.hpp"
#include "embedding.hpp"
#include "experts.hpp"

namespace mtpx {

namespace cpu {

inline constexpr Index row_chunk = 512;

/// Tokens of a chunk of logits.
inline Index logit_chunk(Index vocab) { return std::min(loss_vocab, vocab); }

/// e^(z - highest) of up to a register's numbers; 0 in what is left of the register.
template <typename A>
inline Vec<A> exp_up_to(const A* z, Index left, A highest) {
  Vec<A> e = exp(load_up_to(z, left) - highest);
  for (Index l = left; l < lanes<A>; ++l) e[static_cast<int>(l)] = A(0);
  return e;
}

/// Merges a row's logits z [width], columns v .. v + width - 1 of the vocabulary, into its running maximum
/// (top), sum (lse), label logit (-row_loss) and argmax; the last ones turn them into results.
template <typename A>
inline void merge_logits(const A* z, Index width, Index v, Index vocab, std::int32_t label, A& top, A& lse,
                         A& row_loss, std::int32_t& argmax) {
  if (v == 0) {
    lse = A(0);  // the running sum until the last chunk
    row_loss = A(0);
    argmax = 0;
    top = -std::numeric_limits<A>::infinity();
  }
  A highest = top;
  for (Index c = 0; c < width; ++c) {
    if (z[c] > highest) {
      highest = z[c];
      argmax = static_cast<std::int32_t>(v + c);
    }
  }
  RowSum<A> total;
  for (Index c = 0; c < width; c += lanes<A>) total.add(c, exp_up_to(z + c, width - c, highest));
  const A shrink = lse == A(0) ? A(0) : exact::exp(top - highest);
  lse = fma(lse, shrink, total.total());
  top = highest;
  if (label >= v && label < v + width) row_loss = -z[label - v];
  if (v + width == vocab) {
    lse = highest + exact::log(lse);
    row_loss = label < 0 ? A(0) : row_loss + lse;
  }
}

/// From gradients of logits to those of x and w, a chunk at a time: fill(first, count, v, columns, z) turns
/// the logits z [count, chunk] of rows `first` and tokens v on into their gradients.   chunk: see logit_chunk
template <typename T, typename Fill>
void differentiate_chunks(const Cpu& cpu, Rows rows, const T* x, Index vocab, const T* w, Sink<T> dx,
                          Sink<acc_t<T>> dw, const Fill& fill) {
  using A = acc_t<T>;
  const Index width = rows.width, chunk = logit_chunk(vocab);
  const Index most = std::min(row_chunk, rows.count);
  const Workspace<A> logits(cpu, most * chunk);
  const Workspace<A> dx_rows(cpu, dx ? most * width : 0);
  if (rows.count == 0 && dw && !dw.accumulate) std::fill_n(dw.data, vocab * width, A(0));
  for (Index first = 0; first < rows.count; first += most) {
    const Index count = std::min(most, rows.count - first);
    const auto x_rows = row_major(x + first * rows.stride, rows.stride);
    for (Index v = 0; v < vocab; v += chunk) {
      const Index columns = std::min(chunk, vocab - v);
      multiply(cpu, Product<T, T, A>{count, columns, width, x_rows, transposed(w + v * width, width),
                                     logits.data(), chunk});
      fill(first, count, v, columns, logits.data());
      if (dx) {
        multiply(cpu, Product<A, T, A>{count, width, columns, row_major<A>(logits.data(), chunk),
                                       row_major(w + v * width, width), dx_rows.data(), width, v > 0});
      }
      if (dw) {
        multiply(cpu, Product<A, T, A>{columns, width, count, transposed<A>(logits.data(), chunk), x_rows,
                                       dw.data + v * width, width, dw.accumulate || first > 0});
      }
    }
    if (dx)
      copy_rows(cpu, count, width, dx_rows.data(), width, dx.data + first * width, width, dx.accumulate);
  }
}

}  // namespace cpu

/// Cross-entropy of logits x W^T without ever holding [N, V] of them: chunks of rows and vocabulary, with a
/// running maximum and sum per row.
///   x: [N, D] strided   w: [V, D]   labels: [N], below 0 = ignored
///   lse, row_loss: [N]; row_loss = lse - logit[label], 0 where ignored   argmax: [N], lowest index on ties
template <typename T>
void linear_cross_entropy_forward(const Cpu& cpu, Rows rows, const T* x, Index vocab, const T* w,
                                  const std::int32_t* labels, acc_t<T>* lse, acc_t<T>* row_loss,
                                  std::int32_t* argmax) {
  using A = acc_t<T>;
  cpu::check_ids("linear_cross_entropy", {1, rows.count, rows.count}, labels,
                 std::numeric_limits<std::int32_t>::min(), vocab);
  const Index chunk = cpu::logit_chunk(vocab);
  const cpu::Workspace<A> logits(cpu, std::min(cpu::row_chunk, rows.count) * chunk);
  const cpu::Workspace<A> top(cpu, rows.count);
  for (Index first = 0; first < rows.count; first += cpu::row_chunk) {
    const Index count = std::min(cpu::row_chunk, rows.count - first);
    for (Index v = 0; v < vocab; v += chunk) {
      const Index width = std::min(chunk, vocab - v);
      cpu::multiply(cpu, cpu::Product<T, T, A>{
                             count, width, rows.width, cpu::row_major(x + first * rows.stride, rows.stride),
                             cpu::transposed(w + v * rows.width, rows.width), logits.data(), chunk});
      cpu::parallel_chunks(cpu, count, 8 * width, [&](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
          const Index r = first + i;
          cpu::merge_logits(logits.data() + i * chunk, width, v, vocab, labels[r], top.data()[r], lse[r],
                            row_loss[r], argmax[r]);
        }
      });
    }
  }
}

/// loss = sum of row losses / divisor, factor = 1 / divisor; divisor = the number of labels that count, or
/// `fixed_divisor` when that is positive. No label that counts: loss 0 and factor 0.
template <typename A>
void cross_entropy_mean(const Cpu&, Index count, const A* row_loss, const std::int32_t* labels,
                        Index fixed_divisor, A* loss, A* factor) {
  constexpr int threads = loss_threads;
  double sums[threads] = {};
  Index valid = 0;
  for (Index r = 0; r < count; ++r) {
    sums[r % threads] += static_cast<double>(row_loss[r]);
    valid += labels[r] >= 0 ? 1 : 0;
  }
  const double total = cpu::sum_of_block<threads>(sums);
  const double divisor = static_cast<double>(fixed_divisor > 0 ? fixed_divisor : valid);
  *factor = valid == 0 ? A(0) : static_cast<A>(1.0 / divisor);
  *loss = valid == 0 ? A(0) : static_cast<A>(total / divisor);
}

/// dlogits = (softmax - onehot(label)) * factor * dloss, recomputed chunk by chunk;  dx = dlogits W,
/// dW = dlogits^T x.
template <typename T>
void linear_cross_entropy_backward(const Cpu& cpu, Rows rows, const T* x, Index vocab, const T* w,
                                   const std::int32_t* labels, const acc_t<T>* lse, const acc_t<T>* factor,
                                   const acc_t<T>* dloss, Sink<T> dx, Sink<acc_t<T>> dw) {
  using A = acc_t<T>;
  const A scale = *factor * *dloss;
  const Index chunk = cpu::logit_chunk(vocab);
  cpu::differentiate_chunks(
      cpu, rows, x, vocab, w, dx, dw, [&](Index first, Index count, Index v, Index columns, A* logits) {
        cpu::parallel_chunks(cpu, count, 8 * columns, [&](Index begin, Index end) {
          for (Index i = begin; i < end; ++i) {
            A* z = logits + i * chunk;  // [columns]
            const Index r = first + i;
            const A weight = labels[r] < 0 ? A(0) : scale;
            for (Index c = 0; c < columns; c += cpu::lanes<A>) {
              const Index left = columns - c;
              cpu::store_up_to(z + c, weight * cpu::exp(cpu::load_up_to(z + c, left) - lse[r]), left);
            }
            if (labels[r] >= v && labels[r] < v + columns) z[labels[r] - v] -= weight;
          }
        });
      });
}

}  // namespace mtpx
