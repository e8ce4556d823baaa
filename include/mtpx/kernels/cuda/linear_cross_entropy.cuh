#pragma once
// Twins of cpu/linear_cross_entropy.hpp: the loss of logits x W^T without ever holding [N, V] of them.

#include <limits>

#include "elementwise.cuh"
#include "products/gemm.cuh"

#ifdef MTPX_SM90A
#include "sm90/gemm_cross_entropy.cuh"
#endif

namespace mtpx {

namespace cuda {

inline constexpr Index loss_rows = 4096;  // of a chunk of logits
inline constexpr int logit_threads = 256;
inline constexpr int logit_warps = logit_threads / 32;

/// The larger of two numbers and its place; of equals, the lower place.
template <typename A>
struct Best {
  A value = -std::numeric_limits<A>::infinity();
  std::int32_t at = std::numeric_limits<std::int32_t>::max();

  __device__ __forceinline__ void take(A other, std::int32_t other_at) {
    if (other > value || (other == value && other_at < at)) {
      value = other;
      at = other_at;
    }
  }
};

/// One chunk of logits [rows, width], columns v .. v + width - 1 of the vocabulary, merged into the rows'
/// running maximum (top), sum (lse), label logit (-row_loss) and argmax; the last chunk turns them into
/// results. A warp per row. A label that no column has leaves NaN.
template <typename A>
__global__ void __launch_bounds__(logit_threads)
    merge_logits(Index rows, Index width, Index v, Index vocab, const A* logits, Index stride,
                 const std::int32_t* labels, A* top, A* lse, A* row_loss, std::int32_t* argmax) {
  const Index r = Index{blockIdx.x} * logit_warps + threadIdx.x / 32;
  if (r >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const A* z = logits + r * stride;  // [width]
  Best<A> best;
#pragma unroll 4
  for (Index c = lane; c < width; c += 32) best.take(z[c], static_cast<std::int32_t>(v + c));
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    best.take(__shfl_xor_sync(whole_warp, best.value, offset), __shfl_xor_sync(whole_warp, best.at, offset));
  const A before = v == 0 ? -std::numeric_limits<A>::infinity() : top[r];
  const A highest = best.value > before ? best.value : before;
  A sum(0);
#pragma unroll 4
  for (Index c = lane; c < width; c += 32) sum += exact::exp(z[c] - highest);
  sum = warp_sum(sum);
  if (lane != 0) return;
  if (v > 0 && lse[r] != A(0)) sum = exact::fma(lse[r], exact::exp(before - highest), sum);
  if (v == 0 || best.value > before) argmax[r] = best.value > before ? best.at : 0;
  A label = v == 0 ? std::numeric_limits<A>::quiet_NaN() : row_loss[r];
  if (labels[r] >= v && labels[r] < v + width) label = -z[labels[r] - v];
  const bool last = v + width == vocab;
  const A result = highest + exact::log(sum);
  top[r] = highest;
  lse[r] = last ? result : sum;
  row_loss[r] = !last ? label : labels[r] < 0 ? A(0) : label + result;
}

/// dlogits = (exp(logits - lse) - onehot(label)) * factor * dloss of one chunk, in place or rounded to
/// another buffer with the same stride. A block per row.
template <typename T>
__global__ void __launch_bounds__(logit_threads)
    differentiate_logits(Index width, Index v, const acc_t<T>* logits, Index stride,
                         const std::int32_t* labels, const acc_t<T>* lse, const acc_t<T>* factor,
                         const acc_t<T>* dloss, T* dlogits) {
  using A = acc_t<T>;
  const Index r = blockIdx.x;
  const A* z = logits + r * stride;  // [width]
  T* d = dlogits + r * stride;       // [width]
  const A weight = labels[r] < 0 ? A(0) : *factor * *dloss;
  const A shift = lse[r];
  for (Index c = threadIdx.x; c < width; c += logit_threads) {
    const A p = exact::product(weight, exact::exp(z[c] - shift));
    d[c] = narrow<T>(labels[r] == v + c ? p - weight : p);
  }
}

/// One block; the order of the sum depends on `count` alone.
template <typename A, int threads>
__global__ void __launch_bounds__(threads)
    mean_loss(Index count, const A* row_loss, const std::int32_t* labels, Index fixed_divisor, A* loss,
              A* factor) {
  __shared__ double sums[threads / 32];
  double total = 0, valid = 0;
#pragma unroll 4
  for (Index r = threadIdx.x; r < count; r += threads) {
    total += static_cast<double>(row_loss[r]);
    valid += labels[r] >= 0 ? 1.0 : 0.0;
  }
  total = block_sum<threads>(total, sums);
  valid = block_sum<threads>(valid, sums);
  if (threadIdx.x != 0) return;
  const double divisor = fixed_divisor > 0 ? static_cast<double>(fixed_divisor) : valid;
  *factor = valid > 0 ? static_cast<A>(1.0 / divisor) : A(0);
  *loss = valid > 0 ? static_cast<A>(total / divisor) : A(0);
}

/// From gradients of logits to those of x and w, a chunk at a time: fill(first, count, v, columns, stride,
/// logits, dlogits) turns the logits of rows `first` and tokens v on into their gradients, in place or
/// rounded to another buffer with the same stride.
template <typename T, typename Fill>
void differentiate_chunks(const Cuda& device, Rows rows, const T* x, Index vocab, const T* w, Sink<T> dx,
                          Sink<acc_t<T>> dw, const Fill& fill) {
  using A = acc_t<T>;
  constexpr bool same = std::is_same_v<T, A>;
  if (rows.count == 0) {
    if (dw && !dw.accumulate)
      set_zero(device, dw.data, static_cast<std::size_t>(vocab * rows.width) * sizeof(A));
    return;
  }
  if (!dx && !dw) return;
  const Index width = rows.width;
  const Index chunk = std::min(loss_vocab, vocab);
  const Index row_chunk = std::min(loss_rows, rows.count);
  const Workspace<A> logits(device, row_chunk * chunk);
  const Workspace<T> rounded(device, same ? 0 : row_chunk * chunk);
  const bool dx_apart = dx && (!same || dx.accumulate);  // what is added is the whole sum, rounded once
  const Workspace<A> dx_rows(device, dx_apart ? row_chunk * width : 0);
  T* dlogits = rounded.data();
  if constexpr (same) dlogits = logits.data();
  for (Index first = 0; first < rows.count; first += row_chunk) {
    const Index count = std::min(row_chunk, rows.count - first);
    const auto x_rows = row_major(x + first * rows.stride, rows.stride);
    T* const dx_out = dx ? dx.data + first * width : nullptr;  // [count, width]
    for (Index v = 0; v < vocab; v += chunk) {
      const Index columns = std::min(chunk, vocab - v);
      multiply(device, count, columns, width, x_rows, transposed(w + v * width, width), logits.data(), chunk,
               false);
      fill(first, count, v, columns, chunk, logits.data(), dlogits);
      const T* const d = dlogits;
      if (dx) {
        const auto w_rows = row_major(w + v * width, width);
        if (dx_apart) {
          multiply(device, count, width, columns, row_major(d, chunk), w_rows, dx_rows.data(), width, v > 0);
        } else {
          multiply(device, count, width, columns, row_major(d, chunk), w_rows, dx_out, width, v > 0);
        }
      }
      if (dw) {
        multiply(device, columns, width, count, transposed(d, chunk), x_rows, dw.data + v * width, width,
                 dw.accumulate || first > 0);
      }
    }
    if (dx_apart) {
      copy_rows(device, count, width, dx_rows.data(), width, dx_out, width, dx.accumulate);
    }
  }
}

}  // namespace cuda

/// Cross-entropy of logits x W^T without ever holding [N, V] of them: chunks of rows and vocabulary, with a
/// running maximum and sum per row; on Hopper in bf16 logits never leave the registers.
///   x: [N, D] strided   w: [V, D]   labels: [N], below 0 = ignored
///   lse, row_loss: [N]; row_loss = lse - logit[label], 0 where ignored   argmax: [N], lowest index on ties
/// A label beyond the vocabulary makes its row_loss NaN.
template <typename T>
void linear_cross_entropy_forward(const Cuda& device, Rows rows, const T* x, Index vocab, const T* w,
                                  const std::int32_t* labels, acc_t<T>* lse, acc_t<T>* row_loss,
                                  std::int32_t* argmax) {
  using A = acc_t<T>;
  if (rows.count == 0) return;
#ifdef MTPX_SM90A
  if constexpr (std::is_same_v<T, bf16>) {
    if (cuda::can_be_wide<T>(rows.width, rows.stride, x, w))
      return cuda::sm90::cross_entropy_forward(device, rows, x, vocab, w, labels, lse, row_loss, argmax);
  }
#endif
  const Index chunk = std::min(loss_vocab, vocab);
  const cuda::Workspace<A> logits(device, std::min(cuda::loss_rows, rows.count) * chunk);
  const cuda::Workspace<A> top(device, rows.count);
  for (Index first = 0; first < rows.count; first += cuda::loss_rows) {
    const Index count = std::min(cuda::loss_rows, rows.count - first);
    for (Index v = 0; v < vocab; v += chunk) {
      const Index width = std::min(chunk, vocab - v);
      cuda::multiply(device, count, width, rows.width, cuda::row_major(x + first * rows.stride, rows.stride),
                     cuda::transposed(w + v * rows.width, rows.width), logits.data(), chunk, false);
      cuda::launch(device, "linear_cross_entropy", cuda::merge_logits<A>,
                   static_cast<unsigned>(cuda::ceil_div(count, cuda::logit_warps)), cuda::logit_threads, 0,
                   count, width, v, vocab, logits.data(), chunk, labels + first, top.data() + first,
                   lse + first, row_loss + first, argmax + first);
    }
  }
}

/// loss = sum of row losses / divisor, factor = 1 / divisor; divisor = the number of labels that count, or
/// `fixed_divisor` when that is positive. No label that counts: loss 0 and factor 0.
template <typename A>
void cross_entropy_mean(const Cuda& device, Index count, const A* row_loss, const std::int32_t* labels,
                        Index fixed_divisor, A* loss, A* factor) {
  constexpr int threads = loss_threads;
  cuda::launch(device, "cross_entropy_mean", cuda::mean_loss<A, threads>, dim3(1), dim3(threads), 0, count,
               row_loss, labels, fixed_divisor, loss, factor);
}

/// dlogits = (softmax - onehot(label)) * factor * dloss, recomputed chunk by chunk;  dx = dlogits W,
/// dW = dlogits^T x. For bf16, dlogits is rounded to it before the two products.
template <typename T>
void linear_cross_entropy_backward(const Cuda& device, Rows rows, const T* x, Index vocab, const T* w,
                                   const std::int32_t* labels, const acc_t<T>* lse, const acc_t<T>* factor,
                                   const acc_t<T>* dloss, Sink<T> dx, Sink<acc_t<T>> dw) {
  using A = acc_t<T>;
#ifdef MTPX_SM90A
  if constexpr (std::is_same_v<T, bf16>) {
    if (rows.count > 0 && (dx || dw) && cuda::can_be_wide<T>(rows.width, rows.stride, x, w))
      return cuda::sm90::cross_entropy_backward(device, rows, x, vocab, w, labels, lse, factor, dloss, dx,
                                                dw);
  }
#endif
  cuda::differentiate_chunks(
      device, rows, x, vocab, w, dx, dw,
      [&](Index first, Index count, Index v, Index columns, Index stride, const A* logits, T* dlogits) {
        cuda::launch(device, "linear_cross_entropy", cuda::differentiate_logits<T>,
                     dim3(static_cast<unsigned>(count)), dim3(cuda::logit_threads), 0, columns, v, logits,
                     stride, labels + first, lse + first, factor, dloss, dlogits);
      });
}

}  // namespace mtpx
