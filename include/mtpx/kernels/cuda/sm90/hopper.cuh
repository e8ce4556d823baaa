#pragma once
// Hopper's own instructions, in the few forms that the kernels here use: barriers in shared memory, the bulk
// tensor copy engine (TMA), and registers per warpgroup. What queues such kernels is a template of the
// activations' type, which is always bf16: so only the object that calls it holds them. PTX ISA 8.0,
// sections 9.7.9.27, 9.7.13.15, 9.7.15.

#include <cuda.h>  // CUtensorMap; nothing of the driver is linked

#include "../core/launch.cuh"

namespace mtpx::cuda::sm90 {

// --- Tensor maps: what the copy engine needs to know of a matrix in global memory ------------------------

/// bf16 numbers [.., columns], read in boxes whose rows are 64 numbers: 128 bytes, swizzled. What lies
/// outside arrives as zeros. Extents and boxes from the last axis on; the strides of all but the last, in
/// bytes, which must be multiples of 16, as the address must. Empty where work is planned, of which the
/// driver has no addresses.
template <int rank>
CUtensorMap tiled_map(const Cuda& device, const bf16* data, const cuuint64_t (&extents)[rank],
                      const cuuint64_t (&strides)[rank - 1], const cuuint32_t (&box)[rank]) {
  if (device.planned()) return {};
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    mtpx::detail::cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                              cudaEnableDefault, &found),
                             "tensor map");
    if (found != cudaDriverEntryPointSuccess) throw DeviceError("[tensor map] the driver is too old");
    return reinterpret_cast<Encode>(function);
  }();
  CUtensorMap map;
  cuuint32_t steps[rank];
  std::fill_n(steps, rank, 1U);
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, const_cast<bf16*>(data), extents, strides, box,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    std::string sizes;
    for (const cuuint64_t extent : extents) sizes = cat(extent, sizes.empty() ? "" : ", ", sizes);
    throw DeviceError(
        cat("[tensor map] [", sizes, "]: refused by the driver, code ", static_cast<int>(status)));
  }
  return map;
}

/// A [rows, columns] matrix, rows `stride` numbers apart, read in boxes of [box_rows, 64].
inline CUtensorMap tensor_map(const Cuda& device, const bf16* data, Index rows, Index columns, Index stride,
                              int box_rows) {
  return tiled_map<2>(device, data, {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)},
                      {static_cast<cuuint64_t>(stride) * sizeof(bf16)},
                      {64, static_cast<cuuint32_t>(box_rows)});
}

// --- Barriers in shared memory ---------------------------------------------------------------------------

using Barrier = std::uint64_t;

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// One thread, before a fence_barriers() and a __syncthreads().
__device__ __forceinline__ void init(Barrier& barrier, std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals));
}
__device__ __forceinline__ void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive(Barrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}
/// Arrives, and announces bytes that copies to this barrier will bring.
__device__ __forceinline__ void arrive_expecting(Barrier& barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
               "r"(bytes)
               : "memory");
}
/// Waits until the phase of the given parity (0 first, then 1, 0, ..) is complete.
__device__ __forceinline__ void wait(Barrier& barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(shared_address(&barrier)),
      "r"(parity)
      : "memory");
}

/// A ring of `stages` slots: which one is next, and the parity of its phase.
template <int stages>
struct Ring {
  int slot = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void next() {
    if (++slot == stages) {
      slot = 0;
      parity ^= 1;
    }
  }
};

// --- The copy engine -------------------------------------------------------------------------------------

__device__ __forceinline__ void prefetch(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

/// Starts the copy of the box whose first element is (row, column) to shared memory at a multiple of 1024
/// bytes. The barrier completes when all announced bytes are there. One thread.
__device__ __forceinline__ void load_box(void* to, const CUtensorMap& map, Barrier& barrier, int row,
                                         int column) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(column), "r"(row)
      : "memory");
}

/// Makes this thread's ordinary stores to shared memory visible to wgmma and the copy engine; a barrier among
/// the threads comes after it.
__device__ __forceinline__ void fence_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- Warpgroups ------------------------------------------------------------------------------------------

/// Registers of every thread of the warpgroup from here on; a kernel needs __launch_bounds__(threads, 1).
template <int registers>
__device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

/// A barrier of `threads` threads, by number (1 .. 15; 0 is __syncthreads()).
__device__ __forceinline__ void named_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

}  // namespace mtpx::cuda::sm90
