#pragma once

#include "elementwise.hpp"
#include "embedding.hpp"
#include "experts.hpp"

namespace mtpx {

namespace cpu {
inline constexpr Index row_chunk = 512;
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
  const Index chunk = std::min(loss_vocab, vocab);
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
          const A* z = logits.data() + i * chunk;  // [width]
          if (v == 0) {
            lse[r] = A(0);  // the running sum until the last chunk
            row_loss[r] = A(0);
            argmax[r] = 0;
            top.data()[r] = -std::numeric_limits<A>::infinity();
          }
          A highest = top.data()[r];
          for (Index c = 0; c < width; ++c) {
            if (z[c] > highest) {
              highest = z[c];
              argmax[r] = static_cast<std::int32_t>(v + c);
            }
          }
          cpu::RowSum<A> total;
          for (Index c = 0; c < width; c += cpu::lanes<A>) {
            cpu::Vec<A> e = cpu::exp(cpu::load_up_to(z + c, width - c) - highest);
            for (Index l = width - c; l < cpu::lanes<A>; ++l) e[static_cast<int>(l)] = A(0);
            total.add(c, e);
          }
          const A shrink = lse[r] == A(0) ? A(0) : exact::exp(top.data()[r] - highest);
          lse[r] = cpu::fma(lse[r], shrink, total.total());
          top.data()[r] = highest;
          if (labels[r] >= v && labels[r] < v + width) row_loss[r] = -z[labels[r] - v];
          if (v + width == vocab) {
            lse[r] = highest + exact::log(lse[r]);
            row_loss[r] = labels[r] < 0 ? A(0) : row_loss[r] + lse[r];
          }
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
  const Index width = rows.width;
  const Index chunk = std::min(loss_vocab, vocab);
  const Index row_chunk = std::min(cpu::row_chunk, rows.count);
  const cpu::Workspace<A> logits(cpu, row_chunk * chunk);
  const cpu::Workspace<A> dx_rows(cpu, dx ? row_chunk * width : 0);
  if (rows.count == 0 && dw && !dw.accumulate) std::fill_n(dw.data, vocab * width, A(0));
  for (Index first = 0; first < rows.count; first += row_chunk) {
    const Index count = std::min(row_chunk, rows.count - first);
    const auto x_rows = cpu::row_major(x + first * rows.stride, rows.stride);
    for (Index v = 0; v < vocab; v += chunk) {
      const Index columns = std::min(chunk, vocab - v);
      cpu::multiply(cpu, cpu::Product<T, T, A>{count, columns, width, x_rows,
                                               cpu::transposed(w + v * width, width), logits.data(), chunk});
      cpu::parallel_chunks(cpu, count, 8 * columns, [&](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
          A* z = logits.data() + i * chunk;  // [columns]
          const Index r = first + i;
          const A weight = labels[r] < 0 ? A(0) : scale;
          for (Index c = 0; c < columns; c += cpu::lanes<A>) {
            const Index left = columns - c;
            cpu::store_up_to(z + c, weight * cpu::exp(cpu::load_up_to(z + c, left) - lse[r]), left);
          }
          if (labels[r] >= v && labels[r] < v + columns) z[labels[r] - v] -= weight;
        }
      });
      if (dx) {
        cpu::multiply(
            cpu, cpu::Product<A, T, A>{count, width, columns, cpu::row_major<A>(logits.data(), chunk),
                                       cpu::row_major(w + v * width, width), dx_rows.data(), width, v > 0});
      }
      if (dw) {
        cpu::multiply(cpu,
                      cpu::Product<A, T, A>{columns, width, count, cpu::transposed<A>(logits.data(), chunk),
                                            x_rows, dw.data + v * width, width, dw.accumulate || first > 0});
      }
    }
    if (dx)
      copy_rows(cpu, count, width, dx_rows.data(), width, dx.data + first * width, width, dx.accumulate);
  }
}

}  // namespace mtpx
