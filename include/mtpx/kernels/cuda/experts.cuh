#pragma once
// Twins of cpu/experts.hpp: the rows of tokens sorted by expert, grouped products, and the sums back.

#include "products/few_rows_experts.cuh"
#include "products/grouped.cuh"
#include "swiglu.cuh"

#ifdef MTPX_SM90A
#include "sm90/grouped.cuh"
#endif

namespace mtpx {

namespace cuda {

inline constexpr int row_threads = 256;
inline constexpr int rows_per_block = row_threads / 32;

/// to[place_nk] = from[n]: each row is read once and written K times. A warp per token, N numbers a lane at a
/// time.
template <typename T, int N>
__global__ void spread_rows(Index tokens, Index width, int top_k, const std::int32_t* place, const T* from,
                            Index stride, T* to) {
  // What is only copied may be taken apart by the compiler, into narrow stores: so by name.
  using Word = std::conditional_t<sizeof(T) * N == sizeof(uint4), uint4, T>;
  constexpr int batch = 4;
  for (Index n = blockIdx.x * rows_per_block + threadIdx.x / 32; n < tokens;
       n += gridDim.x * rows_per_block) {
    const T* source = from + n * stride;         // [width]
    const std::int32_t* at = place + n * top_k;  // [top_k]
    for (Index first = threadIdx.x % 32 * N; first < width; first += batch * 32 * N) {
      Word part[batch];  // all loads before the first store
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        const Index c = first + i * 32 * N;
        if (c < width) part[i] = *reinterpret_cast<const Word*>(source + c);
      }
      for (int k = 0; k < top_k; ++k) {
        T* row = to + at[k] * width;  // [width]
#pragma unroll
        for (int i = 0; i < batch; ++i) {
          const Index c = first + i * 32 * N;
          if (c >= width) continue;
          if constexpr (sizeof(Word) == sizeof(uint4)) {
            __stcg(reinterpret_cast<Word*>(row + c), part[i]);
          } else {
            row[c] = part[i];
          }
        }
      }
    }
  }
}

/// to[n] (+)= sum_k weight_nk from[place_nk]; null weights count as ones. A warp per token.
template <typename T, int N>
__global__ void combine_rows(Index tokens, Index width, int top_k, const std::int32_t* place,
                             const acc_t<T>* weights, const T* from, T* to, bool accumulate) {
  using A = acc_t<T>;
  using P = Pack<T, N>;
  for (Index n = blockIdx.x * rows_per_block + threadIdx.x / 32; n < tokens;
       n += gridDim.x * rows_per_block) {
    const std::int32_t* at = place + n * top_k;  // [top_k]
    for (Index c = threadIdx.x % 32 * N; c < width; c += 32 * N) {
      A sum[N] = {};
#pragma unroll 4
      for (int k = 0; k < top_k; ++k) {
        const A weight = weights == nullptr ? A(1) : weights[n * top_k + k];
        const P x = *reinterpret_cast<const P*>(from + at[k] * width + c);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] = exact::fma(weight, widen(x.value[i]), sum[i]);
      }
      P* const y = reinterpret_cast<P*>(to + n * width + c);
      P out{};
      if (accumulate) out = *y;
#pragma unroll
      for (int i = 0; i < N; ++i) put(&out.value[i], sum[i], accumulate);
      *y = out;
    }
  }
}

/// Per sorted row, from dh' = dy W_down: dgate, dup, the dot dh' . h for dweights, and weight * h in place of
/// dh'. A warp per row.   gate, up, dgate, dup, weighted: [slots, inner]
template <typename T, int N>
__global__ void activate_backward(Index slots, Index inner, const std::int32_t* slot, const acc_t<T>* weights,
                                  const T* gate, const T* up, T* dgate, T* dup, T* weighted,
                                  Sink<acc_t<T>> dweights) {
  using A = acc_t<T>;
  using P = Pack<T, N>;
  constexpr int batch = 2;
  for (Index p = blockIdx.x * rows_per_block + threadIdx.x / 32; p < slots; p += gridDim.x * rows_per_block) {
    const Index row = p * inner;
    const A weight = weights[slot[p]];
    A dot = A(0);
    for (Index first = threadIdx.x % 32 * N; first < inner; first += batch * 32 * N) {
      P gs[batch], us[batch], ws[batch];  // all loads before the first store
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        const Index c = row + first + b * 32 * N;
        if (c >= row + inner) continue;
        gs[b] = *reinterpret_cast<const P*>(gate + c);
        us[b] = *reinterpret_cast<const P*>(up + c);
        ws[b] = *reinterpret_cast<const P*>(weighted + c);
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        const Index c = row + first + b * 32 * N;
        if (c >= row + inner) continue;
        P dg, du, w;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const A x = widen(gs[b].value[i]), v = widen(us[b].value[i]), d = widen(ws[b].value[i]);
          const exact::Silu<A> silu(x, sigmoid_for<T>(x));
          const A h = silu.value * v;
          dot = exact::fma(d, h, dot);
          dg.value[i] = narrow<T>(weight * d * v * silu.slope);
          du.value[i] = narrow<T>(weight * d * silu.value);
          w.value[i] = narrow<T>(weight * h);
        }
        *reinterpret_cast<P*>(dgate + c) = dg;
        *reinterpret_cast<P*>(dup + c) = du;
        *reinterpret_cast<P*>(weighted + c) = w;
      }
    }
    dot = warp_sum(dot);
    if (dweights.data != nullptr && threadIdx.x % 32 == 0)
      put(dweights.data + slot[p], dot, dweights.accumulate);
  }
}

/// Calls run(std::integral_constant<int, N>) with N = 16 bytes' worth if rows allow it, else 1.
template <typename T, typename Run, typename... Pointers>
void with_width(Index width, Index stride, const Run& run, const Pointers*... pointers) {
  if (can_be_wide<T>(width, stride, pointers...)) {
    run(std::integral_constant<int, wide<T>>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

/// to[p] = from[token of sorted place p]
template <typename T>
void spread(const Cuda& device, ExpertsShape s, const std::int32_t* place, const T* from, Index stride,
            T* to) {
  with_width<T>(
      s.width, stride,
      [&](auto n) {
        launch(device, "experts", spread_rows<T, n()>, dim3(grid_for(device, s.tokens, rows_per_block)),
               dim3(row_threads), 0, s.tokens, s.width, static_cast<int>(s.top_k), place, from, stride, to);
      },
      from, to);
}

/// to[n] (+)= sum_k weight_nk from[place_nk]; null weights count as ones.
template <typename T>
void combine(const Cuda& device, ExpertsShape s, const std::int32_t* place, const acc_t<T>* weights,
             const T* from, T* to, bool accumulate) {
  with_width<T>(
      s.width, s.width,
      [&](auto n) {
        launch(device, "experts", combine_rows<T, n()>, dim3(grid_for(device, s.tokens, rows_per_block)),
               dim3(row_threads), 0, s.tokens, s.width, static_cast<int>(s.top_k), place, weights, from, to,
               accumulate);
      },
      from, to);
}

/// The products of one call: on Hopper's own units where type, sizes and pointers suit them.
template <typename T>
class ExpertProducts {
 public:
  template <typename... Pointers>
  ExpertProducts(const Cuda& device, ExpertsShape s, const std::int32_t* offsets, const Pointers*... pointers)
      : device_(device), s_(s), offsets_(offsets) {
#ifdef MTPX_SM90A
    if constexpr (std::is_same_v<T, bf16>) fast_ = sm90::grouped_fits(s, pointers...);
#else
    ((void)pointers, ...);
#endif
  }

  /// gate = x w_gate^T, up = x w_up^T, hidden = silu(gate) * up
  void swiglu(const T* x, const T* wg, const T* wu, T* gate, T* up, T* hidden) const {
#ifdef MTPX_SM90A
    if constexpr (std::is_same_v<T, bf16>) {
      if (fast_) return sm90::grouped_swiglu(device_, s_, offsets_, x, wg, wu, gate, up, hidden);
    }
#endif
    grouped_forward(device_, s_, s_.width, s_.inner, offsets_, x, wg, gate);
    grouped_forward(device_, s_, s_.width, s_.inner, offsets_, x, wu, up);
    swiglu_forward(device_, s_.slots() * s_.inner, gate, up, hidden);
  }

  /// y = x w^T   w: [E, out, in]
  void forward(Index in, Index out, const T* x, const T* w, T* y) const {
#ifdef MTPX_SM90A
    if constexpr (std::is_same_v<T, bf16>) {
      if (fast_) return sm90::grouped_forward(device_, s_, in, out, offsets_, x, w, y);
    }
#endif
    grouped_forward(device_, s_, in, out, offsets_, x, w, y);
  }

  /// dx = dy w (+ dy2 w2, unless dy2 is null)
  void backward_input(Index in, Index out, const T* dy, const T* w, const T* dy2, const T* w2, T* dx) const {
#ifdef MTPX_SM90A
    if constexpr (std::is_same_v<T, bf16>) {
      if (fast_) return sm90::grouped_backward_input(device_, s_, in, out, offsets_, dy, w, dy2, w2, dx);
    }
#endif
    grouped_backward_input(device_, s_, in, out, offsets_, dy, w, dx, false);
    if (dy2 != nullptr) grouped_backward_input(device_, s_, in, out, offsets_, dy2, w2, dx, true);
  }

  /// dw (+)= dy^T x, dw2 (+)= dy2^T x; null sinks are skipped.
  void backward_weight(Index in, Index out, const T* dy, Sink<acc_t<T>> dw, const T* dy2, Sink<acc_t<T>> dw2,
                       const T* x) const {
#ifdef MTPX_SM90A
    if constexpr (std::is_same_v<T, bf16>) {
      if (fast_) return sm90::grouped_backward_weight(device_, s_, in, out, offsets_, dy, dw, dy2, dw2, x);
    }
#endif
    grouped_backward_weight(device_, s_, in, out, offsets_, dy, x, dw);
    grouped_backward_weight(device_, s_, in, out, offsets_, dy2, x, dw2);
  }

 private:
  const Cuda& device_;
  ExpertsShape s_;
  const std::int32_t* offsets_;
  bool fast_ = false;
};

/// The row kernel of the backward pass; `weighted` holds dh' and receives weight * h.
template <typename T>
void activate_experts_backward(const Cuda& device, ExpertsShape s, const std::int32_t* slot,
                               const acc_t<T>* weights, const T* gate, const T* up, T* dgate, T* dup,
                               T* weighted, Sink<acc_t<T>> dweights) {
  const auto run = [&](auto n) {
    launch(device, "experts", activate_backward<T, n()>, dim3(grid_for(device, s.slots(), rows_per_block)),
           dim3(row_threads), 0, s.slots(), s.inner, slot, weights, gate, up, dgate, dup, weighted, dweights);
  };
  if constexpr (in_order<T>) {
    run(std::integral_constant<int, 1>{});
  } else {
    with_width<T>(s.inner, s.inner, run, gate, up, dgate, dup, weighted);
  }
}

}  // namespace cuda

/// y_n = sum_k weight_nk E_e(x_n), e = id_nk,  E_e(x) = W_down,e (silu(W_gate,e x) * (W_up,e x)).
///   x: [N, D] strided   weights: [N, K]   wg, wu: [E, F, D]   wd: [E, D, F]   y: [N, D]
///   gate, up: [N K, F] in sorted order, for backward
/// Up to cuda::few_rows tokens: a token's bits do not depend on the tokens beside it.
template <typename T>
void experts_forward(const Cuda& device, ExpertsShape s, const std::int32_t* offsets,
                     const std::int32_t* slot, const std::int32_t* place, const T* x, Index x_stride,
                     const acc_t<T>* weights, const T* wg, const T* wu, const T* wd, T* gate, T* up, T* y) {
  if (s.tokens <= cuda::few_rows) {
    return cuda::few_rows_experts(device, s, offsets, slot, place, x, x_stride, weights, wg, wu, wd, gate, up,
                                  y);
  }
  const cuda::Workspace<T> sorted(device, s.slots() * s.width);  // x, then the experts' outputs
  const cuda::Workspace<T> hidden(device, s.slots() * s.inner);
  const cuda::ExpertProducts<T> products(device, s, offsets, sorted.data(), hidden.data(), wg, wu, wd, gate,
                                         up);
  cuda::spread(device, s, place, x, x_stride, sorted.data());
  products.swiglu(sorted.data(), wg, wu, gate, up, hidden.data());
  products.forward(s.inner, s.width, hidden.data(), wd, sorted.data());
  cuda::combine(device, s, place, weights, sorted.data(), y, false);
}

/// With h = silu(g) * u and dh' = dy W_down (not yet weighted):  dweight = dh' . h,  dh = weight dh'.
template <typename T>
void experts_backward(const Cuda& device, ExpertsShape s, const std::int32_t* offsets,
                      const std::int32_t* slot, const std::int32_t* place, const T* x, Index x_stride,
                      const acc_t<T>* weights, const T* wg, const T* wu, const T* wd, const T* gate,
                      const T* up, const T* dy, Sink<T> dx, Sink<acc_t<T>> dweights, Sink<acc_t<T>> dwg,
                      Sink<acc_t<T>> dwu, Sink<acc_t<T>> dwd) {
  const T* const none = nullptr;
  const cuda::Workspace<T> sorted(device, s.slots() * s.width);  // dy, then x, then dx, in sorted order
  const cuda::Workspace<T> dgate(device, s.slots() * s.inner);
  const cuda::Workspace<T> dup(device, s.slots() * s.inner);
  const cuda::Workspace<T> weighted(device, s.slots() * s.inner);  // dh', then weight * h
  const cuda::ExpertProducts<T> products(device, s, offsets, sorted.data(), dgate.data(), dup.data(),
                                         weighted.data(), wg, wu, wd, dwg.data, dwu.data, dwd.data);
  cuda::spread(device, s, place, dy, s.width, sorted.data());
  products.backward_input(s.inner, s.width, sorted.data(), wd, none, none, weighted.data());
  cuda::activate_experts_backward(device, s, slot, weights, gate, up, dgate.data(), dup.data(),
                                  weighted.data(), dweights);
  products.backward_weight(s.inner, s.width, sorted.data(), dwd, none, {}, weighted.data());
  if (dwg || dwu) {
    cuda::spread(device, s, place, x, x_stride, sorted.data());
    products.backward_weight(s.width, s.inner, dgate.data(), dwg, dup.data(), dwu, sorted.data());
  }
  if (!dx) return;
  products.backward_input(s.width, s.inner, dgate.data(), wg, dup.data(), wu, sorted.data());
  cuda::combine<T>(device, s, place, nullptr, sorted.data(), dx.data, dx.accumulate);
}

}  // namespace mtpx
