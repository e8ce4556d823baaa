#pragma once

#include "products/gemm.hpp"

namespace mtpx {

/// y = x W^T.   x: [N, I] strided   w: [O, I] dense   y: [N, O] dense
/// X is the activations' type, W the weights', Y the output's: they differ for the router, whose weights are
/// in the accumulation type, and for the logits of decoding, which are not rounded to the activations' type.
template <typename X, typename W, typename Y>
void linear_forward(const Cpu& cpu, Rows rows, const X* x, Index out, const W* w, Y* y) {
  cpu::multiply(cpu, cpu::Product<X, W, Y>{rows.count, out, rows.width, cpu::row_major(x, rows.stride),
                                           cpu::transposed(w, rows.width), y, out});
}

/// y = x W^T with weights in 8 bits, each a float before it is multiplied.   x: [N, I] strided   w: [O, I]
template <typename X, typename Y>
void linear_int8_forward(const Cpu& cpu, Rows rows, const X* x, const Int8Weights& w, Y* y) {
  cpu::multiply(cpu, cpu::Product<X, std::int8_t, Y>{
                         rows.count, w.out, rows.width, cpu::row_major(x, rows.stride), {w}, y, w.out});
}

/// y = x W^T with packed weights.   x: [N, I] strided   w: [O, I]
template <typename T, typename Y>
void linear_packed_forward(const Cpu& cpu, Rows rows, const T* x, const PackedWeights<T>& w, Y* y) {
  cpu::multiply(cpu, cpu::Product<T, cpu::Packed<T>, Y>{
                         rows.count, w.out, rows.width, cpu::row_major(x, rows.stride), {w}, y, w.out});
}

/// w: `count` matrices, dense   to: count * shape.size() numbers, see PackedWeights
template <typename T>
void pack_weights(const Cpu& cpu, Index count, const PackedWeights<T>& shape, const T* w, T* to) {
  using Weights = PackedWeights<T>;
  const Index panels = shape.panels();
  cpu::parallel_for(cpu, count * panels, [&](Index task) {
    const Index e = task / panels, first = task % panels * Weights::panel;
    const T* const from = w + (e * shape.out + first) * shape.in;
    const Index rows = std::min(Weights::panel, shape.out - first);
    T* const panel = to + task * shape.panel_size();
    for (Index j = 0; j < shape.words() * Weights::word; ++j) {
      for (Index i = 0; i < Weights::panel; ++i)
        panel[shape.place(i, j)] = i < rows && j < shape.in ? from[i * shape.in + j] : T();
    }
  });
}

/// dx = dy W.   dy: [N, O] dense   w: [O, I]   dx: [N, I]
template <typename X, typename W>
void linear_backward_input(const Cpu& cpu, Rows rows, Index out, const W* w, const W* dy, Sink<X> dx) {
  if (!dx) return;
  cpu::multiply(cpu,
                cpu::Product<W, W, X>{rows.count, rows.width, out, cpu::row_major(dy, out),
                                      cpu::row_major(w, rows.width), dx.data, rows.width, dx.accumulate});
}

/// dW = dy^T x.   dw: [O, I], in the accumulation type
template <typename X, typename W>
void linear_backward_weight(const Cpu& cpu, Rows rows, const X* x, Index out, const W* dy,
                            Sink<acc_t<W>> dw) {
  if (!dw) return;
  cpu::multiply(
      cpu, cpu::Product<W, X, acc_t<W>>{out, rows.width, rows.count, cpu::transposed(dy, out),
                                        cpu::row_major(x, rows.stride), dw.data, rows.width, dw.accumulate});
}

}  // namespace mtpx
