#pragma once
// Softmax along rows, and the cross-entropy of logits that are there.

#include "embedding.hpp"
#include "reduce.hpp"

namespace mtpx {

namespace cpu {

/// The largest number of a row, and log sum_c e^x_c = top + log(total).
template <typename A>
struct RowExponentials {
  A top = -std::numeric_limits<A>::infinity(), total;

  template <typename T>
  RowExponentials(Index width, const T* x) {
    for (Index c = 0; c < width; ++c) {
      const A value = static_cast<A>(x[c]);
      if (value > top) top = value;
    }
    total = row_sum<A>(0, width, [&](Index c) { return exp(load_up_to(x + c, width - c) - top); });
  }
  A lse() const { return top + exact::log(total); }
};

}  // namespace cpu

/// y_rc = e^x_rc / sum_j e^x_rj, or its logarithm.   x: rows apart   y: dense
template <typename T>
void softmax_forward(const Cpu& cpu, Rows rows, bool log, const T* x, T* y) {
  using A = acc_t<T>;
  const Index width = rows.width;
  cpu::parallel_chunks(cpu, rows.count, 16 * width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const T* in = x + r * rows.stride;
      const cpu::RowExponentials<A> row(width, in);
      const A log_total = exact::log(row.total);
      for (Index c = 0; c < width; c += cpu::lanes<A>) {
        const cpu::Vec<A> z = cpu::load_up_to(in + c, width - c) - row.top;
        cpu::store_up_to(y + r * width + c, log ? z - log_total : cpu::exp(z) / row.total, width - c);
      }
    }
  });
}

/// With y = softmax(x): dx = y (dy - sum_j y_j dy_j). With y = log softmax(x): dx = dy - e^y sum_j dy_j.
template <typename T>
void softmax_backward(const Cpu& cpu, Rows rows, bool log, const T* y, const T* dy, Sink<T> dx) {
  if (!dx) return;
  using A = acc_t<T>;
  const Index width = rows.width;
  cpu::parallel_chunks(cpu, rows.count, (log ? 12 : 4) * width, [&](Index begin, Index end) {
    for (Index at = begin * width; at < end * width; at += width) {
      const auto of = [&](const T* row, Index c) { return cpu::load_up_to(row + at + c, width - c); };
      const A sum = cpu::row_sum<A>(
          0, width, [&](Index c) { return log ? of(dy, c) : cpu::product(of(y, c), of(dy, c)); });
      const cpu::Vec<A> all = cpu::broadcast<A>(sum);
      for (Index c = 0; c < width; c += cpu::lanes<A>) {
        const cpu::Vec<A> d =
            log ? of(dy, c) - cpu::product(cpu::exp(of(y, c)), all) : cpu::product(of(y, c), of(dy, c) - all);
        cpu::put(dx.data + at + c, d, width - c, dx.accumulate);
      }
    }
  });
}

/// lse_r = log sum_v e^x_rv;  row_loss_r = lse_r - x_r,label, 0 where the label is below 0.
template <typename T>
void cross_entropy_forward(const Cpu& cpu, Rows rows, const T* logits, const std::int32_t* labels,
                           acc_t<T>* lse, acc_t<T>* row_loss) {
  using A = acc_t<T>;
  cpu::check_ids("cross_entropy", {1, rows.count, rows.count}, labels,
                 std::numeric_limits<std::int32_t>::min(), rows.width);
  cpu::parallel_chunks(cpu, rows.count, 8 * rows.width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const T* x = logits + r * rows.stride;
      lse[r] = cpu::RowExponentials<A>(rows.width, x).lse();
      row_loss[r] = labels[r] < 0 ? A(0) : lse[r] - static_cast<A>(x[labels[r]]);
    }
  });
}

/// dx_rv = (e^(x_rv - lse_r) - [v = label_r]) factor dloss, 0 where the label is below 0.
template <typename T>
void cross_entropy_backward(const Cpu& cpu, Rows rows, const T* logits, const std::int32_t* labels,
                            const acc_t<T>* lse, const acc_t<T>* factor, const acc_t<T>* dloss,
                            Sink<T> dlogits) {
  if (!dlogits) return;
  using A = acc_t<T>;
  const A scale = *factor * *dloss;
  cpu::parallel_chunks(cpu, rows.count, 8 * rows.width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const T* x = logits + r * rows.stride;
      const A weight = labels[r] < 0 ? A(0) : scale;
      for (Index c = 0; c < rows.width; c += cpu::lanes<A>) {
        const Index left = rows.width - c;
        cpu::Vec<A> p = cpu::exp(cpu::load_up_to(x + c, left) - lse[r]);
        if (labels[r] >= c && labels[r] < c + cpu::lanes<A>) p[static_cast<int>(labels[r] - c)] -= A(1);
        cpu::put(dlogits.data + r * rows.width + c, cpu::product(cpu::broadcast<A>(weight), p), left,
                 dlogits.accumulate);
      }
    }
  });
}

}  // namespace mtpx
