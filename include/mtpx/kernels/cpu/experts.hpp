#pragma once

#include "products/gemm.hpp"
#include "swiglu.hpp"

#include "../shapes.hpp"

namespace mtpx {

/// A stable sort of slots (token n, choice k -> n * K + k) by expert. Expert e owns the sorted places
/// offsets[e] .. offsets[e + 1); slot[place] and place[slot] are each other's inverse. Adds every expert's
/// share of the slots to load [E] unless that is null.
template <typename A>
void plan_experts(const Cpu&, Index slots, Index experts, const std::int32_t* ids, std::int32_t* offsets,
                  std::int32_t* slot, std::int32_t* place, A* load) {
  std::fill_n(offsets, experts + 1, 0);
  for (Index i = 0; i < slots; ++i) ++offsets[ids[i] + 1];
  for (Index e = 0; e < experts; ++e) {
    if (load != nullptr) load[e] += static_cast<A>(offsets[e + 1]);
    offsets[e + 1] += offsets[e];
  }
  std::int32_t* const next = cpu::scratch<std::int32_t>(experts, 2);
  std::copy_n(offsets, experts, next);
  for (Index i = 0; i < slots; ++i) {
    const std::int32_t at = next[ids[i]]++;
    slot[at] = static_cast<std::int32_t>(i);
    place[i] = at;
  }
}

namespace cpu {

/// `count` numbers of the device's pool, for as long as this lives.
template <typename T>
class Workspace {
 public:
  Workspace(const Cpu& cpu, Index count) : buffer_(cpu.pool(), static_cast<std::size_t>(count) * sizeof(T)) {}
  T* data() const { return static_cast<T*>(buffer_.data()); }

 private:
  Buffer buffer_;
};

/// to[p] = from[token of sorted place p]
template <typename T>
void gather_rows(const Cpu& cpu, ExpertsShape s, const std::int32_t* slot, const T* from, Index stride,
                 T* to) {
  parallel_chunks(cpu, s.slots(), s.width, [&](Index begin, Index end) {
    for (Index p = begin; p < end; ++p) {
      std::memcpy(static_cast<void*>(to + p * s.width), from + slot[p] / s.top_k * stride,
                  static_cast<std::size_t>(s.width) * sizeof(T));
    }
  });
}

/// One product per expert over its own rows: make(e, first row, rows).
template <typename A, typename B, typename C, typename Make>
void multiply_grouped(const Cpu& cpu, Index experts, const std::int32_t* offsets, const Make& make) {
  thread_local std::vector<Product<A, B, C>> products;  // kept, so that decoding allocates nothing
  products.clear();
  for (Index e = 0; e < experts; ++e)
    products.push_back(make(e, Index(offsets[e]), Index(offsets[e + 1] - offsets[e])));
  multiply(cpu, std::span<const Product<A, B, C>>(products));
}

/// w_e^T of a stack w [E, out, in].
template <typename T>
Matrix<T> weights_of(const T* w, Index e, Index out, Index in) {
  return transposed(w + e * out * in, in);
}
inline Matrix<std::int8_t> weights_of(const Int8Weights& w, Index e, Index, Index) { return {w.of_stack(e)}; }
template <typename T>
Matrix<Packed<T>> weights_of(const PackedWeights<T>& w, Index e, Index, Index) {
  return {w.of_stack(e)};
}

/// y[rows of e] = x[rows of e] w_e^T   w: [E, out, in], of type W
template <typename W, typename T, typename Stack>
void grouped_forward(const Cpu& cpu, Index experts, Index in, Index out, const std::int32_t* offsets,
                     const T* x, const Stack& w, T* y) {
  multiply_grouped<T, W, T>(cpu, experts, offsets, [&](Index e, Index row, Index rows) {
    return Product<T, W, T>{rows,          out, in, row_major(x + row * in, in), weights_of(w, e, out, in),
                            y + row * out, out};
  });
}

/// dx[rows of e] (+)= dy[rows of e] w_e
template <typename T>
void grouped_backward_input(const Cpu& cpu, Index experts, Index in, Index out, const std::int32_t* offsets,
                            const T* dy, const T* w, T* dx, bool accumulate) {
  multiply_grouped<T, T, T>(cpu, experts, offsets, [&](Index e, Index row, Index rows) {
    return Product<T, T, T>{
        rows,          in, out,       row_major(dy + row * out, out), row_major(w + e * out * in, in),
        dx + row * in, in, accumulate};
  });
}

/// dw_e (+)= dy[rows of e]^T x[rows of e]; an expert without rows gets zeros.
template <typename T>
void grouped_backward_weight(const Cpu& cpu, Index experts, Index in, Index out, const std::int32_t* offsets,
                             const T* dy, const T* x, Sink<acc_t<T>> dw) {
  if (!dw) return;
  multiply_grouped<T, T, acc_t<T>>(cpu, experts, offsets, [&](Index e, Index row, Index rows) {
    return Product<T, T, acc_t<T>>{out,
                                   in,
                                   rows,
                                   transposed(dy + row * out, out),
                                   row_major(x + row * in, in),
                                   dw.data + e * out * in,
                                   in,
                                   dw.accumulate};
  });
}

/// What experts_forward() and those with other weights are.   W: the type of the weights
template <typename W, typename T, typename Stack>
void run_experts(const Cpu& cpu, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot,
                 const std::int32_t* place, const T* x, Index x_stride, const acc_t<T>* weights,
                 const Stack& wg, const Stack& wu, const Stack& wd, T* gate, T* up, T* y) {
  using A = acc_t<T>;
  const Workspace<T> sorted(cpu, s.slots() * s.width);  // x, then the experts' outputs
  const Workspace<T> hidden(cpu, s.slots() * s.inner);
  gather_rows(cpu, s, slot, x, x_stride, sorted.data());
  grouped_forward<W>(cpu, s.experts, s.width, s.inner, offsets, sorted.data(), wg, gate);
  grouped_forward<W>(cpu, s.experts, s.width, s.inner, offsets, sorted.data(), wu, up);
  swiglu_forward(cpu, s.slots() * s.inner, gate, up, hidden.data());
  grouped_forward<W>(cpu, s.experts, s.inner, s.width, offsets, hidden.data(), wd, sorted.data());
  parallel_chunks(cpu, s.tokens, s.top_k * s.width, [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n) {
      for (Index c = 0; c < s.width; c += lanes<A>) {
        const Index left = s.width - c;
        Vec<A> total{};
        for (Index k = 0; k < s.top_k; ++k) {
          const Index i = n * s.top_k + k;
          const Vec<A> of_expert = load_up_to(sorted.data() + place[i] * s.width + c, left);
          total = fma(broadcast<A>(weights[i]), of_expert, total);
        }
        store_up_to(y + n * s.width + c, total, left);
      }
    }
  });
}

}  // namespace cpu

/// y_n = sum_k weight_nk E_e(x_n), e = id_nk,  E_e(x) = W_down,e (silu(W_gate,e x) * (W_up,e x)).
///   x: [N, D] strided   weights: [N, K]   wg, wu: [E, F, D]   wd: [E, D, F]   y: [N, D]
///   gate, up: [N K, F] in sorted order, for backward
template <typename T>
void experts_forward(const Cpu& cpu, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot,
                     const std::int32_t* place, const T* x, Index x_stride, const acc_t<T>* weights,
                     const T* wg, const T* wu, const T* wd, T* gate, T* up, T* y) {
  cpu::run_experts<T>(cpu, s, offsets, slot, place, x, x_stride, weights, wg, wu, wd, gate, up, y);
}

/// The same with stacks of weights in 8 bits, each a float before it is multiplied.
template <typename T>
void experts_int8_forward(const Cpu& cpu, ExpertsShape s, const std::int32_t* offsets,
                          const std::int32_t* slot, const std::int32_t* place, const T* x, Index x_stride,
                          const acc_t<T>* weights, const Int8Weights& wg, const Int8Weights& wu,
                          const Int8Weights& wd, T* gate, T* up, T* y) {
  cpu::run_experts<std::int8_t>(cpu, s, offsets, slot, place, x, x_stride, weights, wg, wu, wd, gate, up, y);
}

/// The same with stacks of packed weights.
template <typename T>
void experts_packed_forward(const Cpu& cpu, ExpertsShape s, const std::int32_t* offsets,
                            const std::int32_t* slot, const std::int32_t* place, const T* x, Index x_stride,
                            const acc_t<T>* weights, const PackedWeights<T>& wg, const PackedWeights<T>& wu,
                            const PackedWeights<T>& wd, T* gate, T* up, T* y) {
  cpu::run_experts<cpu::Packed<T>>(cpu, s, offsets, slot, place, x, x_stride, weights, wg, wu, wd, gate, up,
                                   y);
}

/// With h = silu(g) * u and dh' = dy W_down (not yet weighted):  dweight = dh' . h,  dh = weight dh'.
template <typename T>
void experts_backward(const Cpu& cpu, ExpertsShape s, const std::int32_t* offsets, const std::int32_t* slot,
                      const std::int32_t* place, const T* x, Index x_stride, const acc_t<T>* weights,
                      const T* wg, const T* wu, const T* wd, const T* gate, const T* up, const T* dy,
                      Sink<T> dx, Sink<acc_t<T>> dweights, Sink<acc_t<T>> dwg, Sink<acc_t<T>> dwu,
                      Sink<acc_t<T>> dwd) {
  using A = acc_t<T>;
  const cpu::Workspace<T> wide(cpu, s.slots() * s.width);  // dy, then x, then dx, in sorted order
  const cpu::Workspace<T> dgate(cpu, s.slots() * s.inner);
  const cpu::Workspace<T> dup(cpu, s.slots() * s.inner);
  const cpu::Workspace<T> weighted(cpu, s.slots() * s.inner);  // dh', then weight * h
  cpu::gather_rows(cpu, s, slot, dy, s.width, wide.data());
  cpu::grouped_backward_input(cpu, s.experts, s.inner, s.width, offsets, wide.data(), wd, weighted.data(),
                              false);
  cpu::parallel_chunks(cpu, s.slots(), 12 * s.inner, [&](Index begin, Index end) {
    for (Index p = begin; p < end; ++p) {
      const Index row = p * s.inner;
      const A weight = weights[slot[p]];
      cpu::RowSum<A> dot;
      for (Index c = 0; c < s.inner; c += cpu::lanes<A>) {
        const Index left = s.inner - c;
        const exact::Silu<cpu::Vec<A>> silu(cpu::load_up_to(gate + row + c, left));
        const cpu::Vec<A> u = cpu::load_up_to(up + row + c, left);
        const cpu::Vec<A> dh = cpu::load_up_to(weighted.data() + row + c, left);
        const cpu::Vec<A> h = silu.value * u;
        dot.add_product(c, dh, h);
        cpu::store_up_to(dgate.data() + row + c, weight * dh * u * silu.slope, left);
        cpu::store_up_to(dup.data() + row + c, weight * dh * silu.value, left);
        cpu::store_up_to(weighted.data() + row + c, weight * h, left);
      }
      if (dweights) {
        A* to = dweights.data + slot[p];
        *to = (dweights.accumulate ? *to : A(0)) + dot.total();
      }
    }
  });
  cpu::grouped_backward_weight(cpu, s.experts, s.inner, s.width, offsets, wide.data(), weighted.data(), dwd);
  if (dwg || dwu) {
    cpu::gather_rows(cpu, s, slot, x, x_stride, wide.data());
    cpu::grouped_backward_weight(cpu, s.experts, s.width, s.inner, offsets, dgate.data(), wide.data(), dwg);
    cpu::grouped_backward_weight(cpu, s.experts, s.width, s.inner, offsets, dup.data(), wide.data(), dwu);
  }
  if (!dx) return;
  cpu::grouped_backward_input(cpu, s.experts, s.width, s.inner, offsets, dgate.data(), wg, wide.data(),
                              false);
  cpu::grouped_backward_input(cpu, s.experts, s.width, s.inner, offsets, dup.data(), wu, wide.data(), true);
  cpu::parallel_chunks(cpu, s.tokens, s.top_k * s.width, [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n) {
      for (Index c = 0; c < s.width; c += cpu::lanes<A>) {
        const Index left = s.width - c;
        cpu::Vec<A> total{};
        for (Index k = 0; k < s.top_k; ++k)
          total += cpu::load_up_to(wide.data() + place[n * s.top_k + k] * s.width + c, left);
        cpu::put(dx.data + n * s.width + c, total, left, dx.accumulate);
      }
    }
  });
}

}  // namespace mtpx
