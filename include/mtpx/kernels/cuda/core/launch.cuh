#pragma once
// What the CUDA kernels share: launches, conversions, wide loads, reductions.

#include <mtpx/core/bf16.hpp>
#include <mtpx/core/cuda.hpp>
#include <mtpx/core/shape.hpp>

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "../../formulas.hpp"
#include "../../shapes.hpp"

namespace mtpx::cuda {

// --- Launches ---------------------------------------------------------------------------------------------

/// Lets a kernel have `shared` bytes of dynamic shared memory, any amount that the chip has. An attribute of
/// the kernel on the current device.
inline void allow_shared(const char* name, const void* kernel, std::size_t shared) {
  if (shared <= 48 * 1024) return;
  detail::cuda_check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
      name);
}

/// Queues a kernel on the device's stream; throws DeviceError "[name] ..." if it cannot be. Nothing to do: no
/// launch, nor where work is planned.   shared: bytes of dynamic shared memory
template <typename... Parameters, typename... Arguments>
void launch(const Cuda& device, const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || device.planned()) return;
  const Cuda::Current current(device);
  allow_shared(name, reinterpret_cast<const void*>(kernel), shared);
  kernel<<<grid, block, shared, device.stream()>>>(std::forward<Arguments>(arguments)...);
  detail::cuda_check(cudaGetLastError(), name);
}

/// Until every kernel queued before this one is done and its results can be read.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The next kernel's blocks, of one that is queued to start early, may take whatever room is left.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

inline constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

/// Blocks of a loop over `count` tasks that a block takes `per_block` at a time, at most what fills the chip
/// `waves` times over: kernels stride by the grid.
inline unsigned grid_for(const Cuda& device, Index count, Index per_block, Index waves = 8) {
  const Index blocks = ceil_div(count, per_block);
  return static_cast<unsigned>(std::min(blocks, Index{device.processors()} * waves));
}

/// `count` numbers of the device's pool, for as long as this lives: until then on the host, which is long
/// enough, since whoever gets the memory next is queued behind.
template <typename T>
class Workspace {
 public:
  Workspace(const Cuda& device, Index count)
      : buffer_(device.pool(), static_cast<std::size_t>(count) * sizeof(T)) {}
  T* data() const { return static_cast<T*>(buffer_.data()); }

 private:
  Buffer buffer_;
};

// --- Conversions ------------------------------------------------------------------------------------------

/// To the accumulation type.
__device__ __forceinline__ float widen(bf16 x) {
  return __uint_as_float(static_cast<std::uint32_t>(x.bits) << 16);
}
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }

/// From the accumulation type, to nearest, ties to even.
template <typename T, typename A>
__device__ __forceinline__ T narrow(A x) {
  if constexpr (std::is_same_v<T, bf16>) {
    bf16 y;
    y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(x)));
    return y;
  } else {
    return static_cast<T>(x);
  }
}

/// What a sink does with a value: overwrite or add, rounding once.
template <typename T, typename A>
__device__ __forceinline__ void put(T* to, A value, bool accumulate) {
  *to = narrow<T>(accumulate ? static_cast<A>(widen(*to)) + value : value);
}

/// Float and double: sums have the host's order, so that results have the host's bits. bf16: the order that
/// is fastest, fixed all the same.
template <typename T>
inline constexpr bool in_order = !std::is_same_v<T, bf16>;

/// e^x as exact as results of type T need it: for bf16 the chip's own, about 1e-6 off.
template <typename T>
__device__ __forceinline__ acc_t<T> exponential(acc_t<T> x) {
  if constexpr (in_order<T>) {
    return exact::exp(x);
  } else {
    return __expf(x);
  }
}

// --- Wide loads: 16 bytes a thread -----------------------------------------------------------------------

/// `N` neighbours in memory, loaded and stored at once; the address must be a multiple of their size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T value[N];
};

/// How many T make 16 bytes.
template <typename T>
inline constexpr int wide = 16 / static_cast<int>(sizeof(T));

/// Whether rows of `width` numbers, `stride` apart, can be read 16 bytes at a time from every one of these.
template <typename T, typename... Pointers>
bool can_be_wide(Index width, Index stride, const Pointers*... pointers) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  return width % wide<T> == 0 && stride % wide<T> == 0 && (aligned(pointers) && ...);
}

// --- Reductions: fixed trees, so the same bits in every run ----------------------------------------------

inline constexpr unsigned whole_warp = 0xffffffffU;

/// The sum over a warp, in every lane.
template <typename A>
__device__ __forceinline__ A warp_sum(A x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(whole_warp, x, offset);
  return x;
}
template <typename A>
__device__ __forceinline__ A warp_max(A x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const A other = __shfl_xor_sync(whole_warp, x, offset);
    x = other > x ? other : x;
  }
  return x;
}

/// The sum over a block of `threads` (a multiple of 32), in every thread. `shared`: threads / 32 numbers that
/// nobody else uses until the block's next barrier.
template <int threads, typename A>
__device__ __forceinline__ A block_sum(A x, A* shared) {
  x = warp_sum(x);
  if constexpr (threads == 32) return x;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  __syncthreads();  // a sum before this one may still be read
  if (threadIdx.x % 32 == 0) shared[warp] = x;
  __syncthreads();
  A total = shared[0];
#pragma unroll
  for (int w = 1; w < threads / 32; ++w) total += shared[w];
  return total;
}

/// 1 / sqrt(mean(x^2) + eps) of a row, from the sum of its squares: the scale of every RMSNorm.
template <typename A>
__device__ __forceinline__ A rstd_of(A squares, Index width, A eps) {
  return A(1) / sqrt(squares / static_cast<A>(width) + eps);
}

}  // namespace mtpx::cuda
