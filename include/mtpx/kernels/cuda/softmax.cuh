#pragma once
// Twins of cpu/softmax.hpp: a warp a row, in the host's order.

#include <limits>

#include "reduce.cuh"

namespace mtpx {

namespace cuda {

/// The largest number of a row, and log sum_c e^x_c = top + log(total), in every lane of a warp.
template <typename A>
struct RowExponentials {
  A top = -std::numeric_limits<A>::infinity(), total = 0;

  template <typename T>
  __device__ __forceinline__ RowExponentials(Index width, const T* x) {
    const Index lane = threadIdx.x % 32;
    for (Index c = lane; c < width; c += 32) {
      const A value = widen(x[c]);
      if (value > top) top = value;
    }
    top = warp_max(top);
    for (Index c = lane; c < width; c += 32) total += exact::exp(widen(x[c]) - top);
    total = warp_sum(total);
  }
  __device__ __forceinline__ A lse() const { return top + exact::log(total); }
};

template <typename T>
__global__ void __launch_bounds__(sum_threads) softmax_rows(Rows rows, bool log, const T* x, T* y) {
  using A = acc_t<T>;
  const Index r = Index{blockIdx.x} * sum_warps + threadIdx.x / 32;
  if (r >= rows.count) return;
  const T* in = x + r * rows.stride;
  const RowExponentials<A> row(rows.width, in);
  const A log_total = exact::log(row.total);
  for (Index c = threadIdx.x % 32; c < rows.width; c += 32) {
    const A z = widen(in[c]) - row.top;
    y[r * rows.width + c] = narrow<T>(log ? z - log_total : exact::exp(z) / row.total);
  }
}

template <typename T>
__global__ void __launch_bounds__(sum_threads)
    softmax_rows_backward(Index count, Index width, bool log, const T* y, const T* dy, Sink<T> dx) {
  using A = acc_t<T>;
  const Index r = Index{blockIdx.x} * sum_warps + threadIdx.x / 32;
  if (r >= count) return;
  const Index first = r * width + threadIdx.x % 32, end = (r + 1) * width;
  A sum(0);
  for (Index i = first; i < end; i += 32)
    sum += log ? widen(dy[i]) : exact::product(A(widen(y[i])), A(widen(dy[i])));
  sum = warp_sum(sum);
  for (Index i = first; i < end; i += 32) {
    const A of_y = widen(y[i]), d = widen(dy[i]);
    put(dx.data + i, log ? d - exact::product(exact::exp(of_y), sum) : exact::product(of_y, d - sum),
        dx.accumulate);
  }
}

template <typename T>
__global__ void __launch_bounds__(sum_threads)
    cross_entropy_rows(Rows rows, const T* logits, const std::int32_t* labels, acc_t<T>* lse,
                       acc_t<T>* row_loss) {
  using A = acc_t<T>;
  const Index r = Index{blockIdx.x} * sum_warps + threadIdx.x / 32;
  if (r >= rows.count) return;
  const T* x = logits + r * rows.stride;
  const A result = RowExponentials<A>(rows.width, x).lse();
  if (threadIdx.x % 32 != 0) return;
  lse[r] = result;
  const std::int32_t label = labels[r];
  row_loss[r] = label < 0            ? A(0)
                : label < rows.width ? result - widen(x[label])
                                     : std::numeric_limits<A>::quiet_NaN();
}

template <typename T>
__global__ void __launch_bounds__(sum_threads)
    cross_entropy_rows_backward(Rows rows, const T* logits, const std::int32_t* labels, const acc_t<T>* lse,
                                const acc_t<T>* factor, const acc_t<T>* dloss, Sink<T> dlogits) {
  using A = acc_t<T>;
  const Index r = Index{blockIdx.x} * sum_warps + threadIdx.x / 32;
  if (r >= rows.count) return;
  const T* x = logits + r * rows.stride;
  const A weight = labels[r] < 0 ? A(0) : exact::product(*factor, *dloss), shift = lse[r];
  for (Index c = threadIdx.x % 32; c < rows.width; c += 32) {
    A p = exact::exp(widen(x[c]) - shift);
    if (labels[r] == c) p -= A(1);
    put(dlogits.data + r * rows.width + c, exact::product(weight, p), dlogits.accumulate);
  }
}

template <typename... Parameters, typename... Arguments>
void launch_warps(const Cuda& device, const char* name, void (*kernel)(Parameters...), Index rows,
                  const Arguments&... arguments) {
  launch(device, name, kernel, static_cast<unsigned>(ceil_div(rows, sum_warps)), sum_threads, 0,
         arguments...);
}

}  // namespace cuda

/// y_rc = e^x_rc / sum_j e^x_rj, or its logarithm.   x: rows apart   y: dense
template <typename T>
void softmax_forward(const Cuda& device, Rows rows, bool log, const T* x, T* y) {
  cuda::launch_warps(device, "softmax", cuda::softmax_rows<T>, rows.count, rows, log, x, y);
}

/// With y = softmax(x): dx = y (dy - sum_j y_j dy_j). With y = log softmax(x): dx = dy - e^y sum_j dy_j.
template <typename T>
void softmax_backward(const Cuda& device, Rows rows, bool log, const T* y, const T* dy, Sink<T> dx) {
  if (!dx) return;
  cuda::launch_warps(device, "softmax_backward", cuda::softmax_rows_backward<T>, rows.count, rows.count,
                     rows.width, log, y, dy, dx);
}

/// lse_r = log sum_v e^x_rv;  row_loss_r = lse_r - x_r,label, 0 where the label is below 0, NaN where it is
/// beyond the vocabulary.
template <typename T>
void cross_entropy_forward(const Cuda& device, Rows rows, const T* logits, const std::int32_t* labels,
                           acc_t<T>* lse, acc_t<T>* row_loss) {
  cuda::launch_warps(device, "cross_entropy", cuda::cross_entropy_rows<T>, rows.count, rows, logits, labels,
                     lse, row_loss);
}

/// dx_rv = (e^(x_rv - lse_r) - [v = label_r]) factor dloss, 0 where the label is below 0.
template <typename T>
void cross_entropy_backward(const Cuda& device, Rows rows, const T* logits, const std::int32_t* labels,
                            const acc_t<T>* lse, const acc_t<T>* factor, const acc_t<T>* dloss,
                            Sink<T> dlogits) {
  if (!dlogits) return;
  cuda::launch_warps(device, "cross_entropy_backward", cuda::cross_entropy_rows_backward<T>, rows.count, rows,
                     logits, labels, lse, factor, dloss, dlogits);
}

}  // namespace mtpx
