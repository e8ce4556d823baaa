#pragma once

#include "products/few_rows.cuh"
#include "products/gemm.cuh"

namespace mtpx {

namespace cuda {

// --- The router: weights and results in float, activations in bf16 ---------------------------------------
//
// A float is the exact sum of three bf16 numbers, 8 bits of its 24 each. So products with float operands are
// made of products in bf16 with float sums, at the tensor cores' speed: every term of x W^T is exact; of
// dy W the terms below 2^-24 are left out.

/// Which thirds of the two operands meet, the largest first.
struct Thirds {
  int count;
  int of[6];
};
inline constexpr Thirds all_thirds = {3, {0, 1, 2, 0, 0, 0}};
inline constexpr Thirds left_thirds = {6, {0, 0, 1, 0, 2, 1}};
inline constexpr Thirds right_thirds = {6, {0, 1, 0, 2, 0, 1}};

__device__ __forceinline__ bf16 third(float x, int index) {
  bf16 part{};
  for (int i = 0; i <= index; ++i) {
    part = narrow<bf16>(x);
    x -= widen(part);
  }
  return part;
}

/// x [rows, width] -> y [rows, count * width], the thirds side by side.
template <typename Low>
__global__ void split_beside_kernel(Index rows, Index width, const float* x, Thirds thirds, Low* y) {
  const Index size = rows * width;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += Index{gridDim.x} * blockDim.x) {
    const float value = x[i];
    Low* const out = y + i / width * width * thirds.count + i % width;  // [count, width]
    for (int t = 0; t < thirds.count; ++t) out[t * width] = third(value, thirds.of[t]);
  }
}
/// x [size] -> y [count, size], the thirds one after the other.
template <typename Low>
__global__ void split_stacked_kernel(Index size, const float* x, Thirds thirds, Low* y) {
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += Index{gridDim.x} * blockDim.x) {
    const float value = x[i];
    for (int t = 0; t < thirds.count; ++t) y[t * size + i] = third(value, thirds.of[t]);
  }
}

/// y[r][c] (+)= the sum of three numbers `step` apart, from the smallest: x[r * stride + c + 2 step], ...
template <typename A>
__global__ void sum_thirds_kernel(Index rows, Index width, const A* x, Index stride, Index step, A* y,
                                  bool accumulate) {
  const Index size = rows * width;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += Index{gridDim.x} * blockDim.x) {
    const A* from = x + i / width * stride + i % width;
    const A sum = (from[2 * step] + from[step]) + from[0];
    y[i] = accumulate ? y[i] + sum : sum;
  }
}

}  // namespace cuda

/// y = x W^T.   x: [N, I] strided   w: [O, I] dense   y: [N, O] dense
/// X is the activations' type, W the weights', Y the output's: they differ for the router, whose weights are
/// in the accumulation type, and for the logits of decoding, which are not rounded to the activations' type.
/// Up to cuda::few_rows rows: a row's bits do not depend on the rows beside it.
template <typename X, typename W, typename Y>
void linear_forward(const Cuda& device, Rows rows, const X* x, Index out, const W* w, Y* y) {
  if (rows.count <= cuda::few_rows) {
    cuda::few_rows_product(device, rows, x, out, w, y);
  } else if constexpr (std::is_same_v<X, W>) {
    cuda::multiply(device, rows.count, out, rows.width, cuda::row_major(x, rows.stride),
                   cuda::transposed(w, rows.width), y, out, false);
  } else {
    const Index size = out * rows.width;
    const cuda::Workspace<bf16> split(device, 3 * size);               // [3 out, width]
    const cuda::Workspace<float> parts(device, rows.count * 3 * out);  // [rows, 3 out]
    cuda::launch(device, "linear", cuda::split_stacked_kernel<bf16>, cuda::grid_for(device, size, 256), 256,
                 0, size, w, cuda::all_thirds, split.data());
    cuda::multiply(device, rows.count, 3 * out, rows.width, cuda::row_major(x, rows.stride),
                   cuda::transposed(static_cast<const bf16*>(split.data()), rows.width), parts.data(),
                   3 * out, false);
    cuda::launch(device, "linear", cuda::sum_thirds_kernel<float>,
                 cuda::grid_for(device, rows.count * out, 256), 256, 0, rows.count, out, parts.data(),
                 3 * out, out, y, false);
  }
}

/// dx = dy W.   dy: [N, O] dense   w: [O, I]   dx: [N, I]
template <typename X, typename W>
void linear_backward_input(const Cuda& device, Rows rows, Index out, const W* w, const W* dy, Sink<X> dx) {
  if (!dx) return;
  if constexpr (std::is_same_v<X, W>) {
    cuda::multiply(device, rows.count, rows.width, out, cuda::row_major(dy, out),
                   cuda::row_major(w, rows.width), dx.data, rows.width, dx.accumulate);
  } else {
    constexpr Index parts = cuda::left_thirds.count;
    const cuda::Workspace<bf16> dy_split(device, rows.count * parts * out);  // [rows, parts out]
    const cuda::Workspace<bf16> w_split(device, parts * out * rows.width);   // [parts out, width]
    cuda::launch(device, "linear", cuda::split_beside_kernel<bf16>,
                 cuda::grid_for(device, rows.count * out, 256), 256, 0, rows.count, out, dy,
                 cuda::left_thirds, dy_split.data());
    cuda::launch(device, "linear", cuda::split_stacked_kernel<bf16>,
                 cuda::grid_for(device, out * rows.width, 256), 256, 0, out * rows.width, w,
                 cuda::right_thirds, w_split.data());
    cuda::multiply(device, rows.count, rows.width, parts * out,
                   cuda::row_major(static_cast<const bf16*>(dy_split.data()), parts * out),
                   cuda::row_major(static_cast<const bf16*>(w_split.data()), rows.width), dx.data, rows.width,
                   dx.accumulate);
  }
}

/// dW = dy^T x.   dw: [O, I], in the accumulation type
template <typename X, typename W>
void linear_backward_weight(const Cuda& device, Rows rows, const X* x, Index out, const W* dy,
                            Sink<acc_t<W>> dw) {
  if (!dw) return;
  if constexpr (std::is_same_v<X, W>) {
    cuda::multiply(device, out, rows.width, rows.count, cuda::transposed(dy, out),
                   cuda::row_major(x, rows.stride), dw.data, rows.width, dw.accumulate);
  } else {
    const cuda::Workspace<bf16> split(device, rows.count * 3 * out);   // [rows, 3 out]
    const cuda::Workspace<float> parts(device, 3 * out * rows.width);  // [3 out, width]
    cuda::launch(device, "linear", cuda::split_beside_kernel<bf16>,
                 cuda::grid_for(device, rows.count * out, 256), 256, 0, rows.count, out, dy, cuda::all_thirds,
                 split.data());
    cuda::multiply(device, 3 * out, rows.width, rows.count,
                   cuda::transposed(static_cast<const bf16*>(split.data()), 3 * out),
                   cuda::row_major(x, rows.stride), parts.data(), rows.width, false);
    cuda::launch(device, "linear", cuda::sum_thirds_kernel<float>,
                 cuda::grid_for(device, out * rows.width, 256), 256, 0, out, rows.width, parts.data(),
                 rows.width, out * rows.width, dw.data, dw.accumulate);
  }
}

}  // namespace mtpx
