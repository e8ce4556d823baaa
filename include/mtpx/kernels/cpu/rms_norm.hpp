#pragma once

#include "core/parallel.hpp"
#include "core/simd.hpp"

#include "../shapes.hpp"

namespace mtpx {

namespace cpu {

/// y = x * rstd * gain for one row; returns rstd = 1 / sqrt(mean(x^2) + eps).
template <typename T>
acc_t<T> rms_norm_row(Index width, const T* x, const acc_t<T>* gain, acc_t<T> eps, T* y) {
  using A = acc_t<T>;
  RowSum<A> squares;
  for (Index c = 0; c < width; c += lanes<A>) {
    const Vec<A> xc = load_up_to(x + c, width - c);
    squares.add_product(c, xc, xc);
  }
  const A rstd = A(1) / std::sqrt(squares.total() / static_cast<A>(width) + eps);
  for (Index c = 0; c < width; c += lanes<A>) {
    store_up_to(y + c, load_up_to(x + c, width - c) * rstd * load_up_to(gain + c, width - c), width - c);
  }
  return rstd;
}

/// Runs rows(begin, end, dgain) over fixed blocks of rows, each with its own sum for the gain's gradient,
/// and adds those sums in the order of the blocks. The sums are of type acc_t<G>.
template <typename G, typename Body>
void with_gain_gradient(const Cpu& cpu, Index count, Index width, Sink<G> dgain, const Body& body) {
  using A = acc_t<G>;
  constexpr Index block = gain_rows;
  const Index blocks = (count + block - 1) / block;
  const Buffer buffer(cpu.pool(), static_cast<std::size_t>(dgain ? blocks * width : 0) * sizeof(A));
  A* const partial = dgain ? static_cast<A*>(buffer.data()) : nullptr;  // [blocks, width]
  parallel_for(cpu, blocks, [&](Index b) {
    A* mine = partial == nullptr ? nullptr : partial + b * width;
    if (mine != nullptr) std::fill(mine, mine + width, A(0));
    body(b * block, std::min(count, (b + 1) * block), mine);
  });
  if (!dgain) return;
  for (Index c = 0; c < width; c += lanes<A>) {
    const Index left = width - c;
    Vec<A> total{};
    for (Index b = 0; b < blocks; ++b) total += load_up_to(partial + b * width + c, left);
    put(dgain.data + c, total, left, dgain.accumulate);
  }
}

/// The gradients of rows: dx = df = dtotal + rstd * (g - x_hat * mean(g * x_hat)) with g = dy * gain and
/// x_hat = x * rstd; dgain is the sum of dy * x_hat.   dtotal: dense; null: none
template <typename T>
void rms_norm_rows_backward(const Cpu& cpu, Rows rows, const T* x, const acc_t<T>* gain, const acc_t<T>* rstd,
                            const T* dtotal, const T* dy, Sink<T> dx, Sink<T> df, Sink<acc_t<T>> dgain) {
  using A = acc_t<T>;
  const Index width = rows.width;
  const auto row = [&](const T* x_r, A rstd_r, Index at, A* partial) {
    RowSum<A> dot;
    for (Index c = 0; c < width; c += lanes<A>) {
      const Index left = width - c;
      const Vec<A> x_hat = load_up_to(x_r + c, left) * rstd_r;
      const Vec<A> dyc = load_up_to(dy + at + c, left);
      dot.add_product(c, dyc * load_up_to(gain + c, left), x_hat);
      if (partial != nullptr) store_up_to(partial + c, fma(dyc, x_hat, load_up_to(partial + c, left)), left);
    }
    const Vec<A> mean = broadcast<A>(dot.total() / static_cast<A>(width));
    for (Index c = 0; c < width; c += lanes<A>) {
      const Index left = width - c;
      const Vec<A> x_hat = load_up_to(x_r + c, left) * rstd_r;
      const Vec<A> inner =
          fma(load_up_to(dy + at + c, left), load_up_to(gain + c, left), -product(x_hat, mean));
      Vec<A> d = product(broadcast<A>(rstd_r), inner);
      if (dtotal != nullptr) d = d + load_up_to(dtotal + at + c, left);
      if (dx) put(dx.data + at + c, d, left, dx.accumulate);
      if (df) put(df.data + at + c, d, left, df.accumulate);
    }
  };
  with_gain_gradient<A>(cpu, rows.count, width, dgain, [&](Index begin, Index end, A* partial) {
    for (Index r = begin; r < end; ++r) row(x + r * rows.stride, rstd[r], r * width, partial);
  });
}

}  // namespace cpu

/// y = x / sqrt(mean(x^2) + eps) * gain, row by row.
template <typename T>
void rms_norm_forward(const Cpu& cpu, Rows rows, const T* x, const acc_t<T>* gain, acc_t<T> eps, T* y,
                      acc_t<T>* rstd) {
  cpu::parallel_chunks(cpu, rows.count, 2 * rows.width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      rstd[r] = cpu::rms_norm_row(rows.width, x + r * rows.stride, gain, eps, y + r * rows.width);
    }
  });
}

template <typename T>
void rms_norm_backward(const Cpu& cpu, Rows rows, const T* x, const acc_t<T>* gain, const acc_t<T>* rstd,
                       const T* dy, Sink<T> dx, Sink<acc_t<T>> dgain) {
  cpu::rms_norm_rows_backward<T>(cpu, rows, x, gain, rstd, nullptr, dy, dx, {}, dgain);
}

/// total = x + f; y = rms_norm(total).   All [N, D] dense.
template <typename T>
void add_rms_norm_forward(const Cpu& cpu, Index count, Index width, const T* x, const T* f,
                          const acc_t<T>* gain, acc_t<T> eps, T* total, T* y, acc_t<T>* rstd) {
  using A = acc_t<T>;
  cpu::parallel_chunks(cpu, count, 3 * width, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const Index at = r * width;
      for (Index c = 0; c < width; c += cpu::lanes<A>) {
        const Index left = width - c;
        cpu::store_up_to(total + at + c,
                         cpu::load_up_to(x + at + c, left) + cpu::load_up_to(f + at + c, left), left);
      }
      rstd[r] = cpu::rms_norm_row(width, total + at, gain, eps, y + at);
    }
  });
}

/// dx = df = dtotal + (gradient of the norm).
template <typename T>
void add_rms_norm_backward(const Cpu& cpu, Index count, Index width, const T* total, const acc_t<T>* gain,
                           const acc_t<T>* rstd, const T* dtotal, const T* dy, Sink<T> dx, Sink<T> df,
                           Sink<acc_t<T>> dgain) {
  cpu::rms_norm_rows_backward<T>(cpu, {count, width, width}, total, gain, rstd, dtotal, dy, dx, df, dgain);
}

}  // namespace mtpx
