// The CUDA kernels for float activations, and those that no type of activations changes.

#include "declarations.hpp"

// Functions that are no templates stand in headers as inline ones: this makes the compiler emit them.
namespace mtpx {

[[gnu::used]] void fill_positions(const Cuda&, Index, Index, Index, std::int32_t*);
[[gnu::used]] void window_positions(const Cuda&, Rows, const std::int32_t*, std::int32_t*);
[[gnu::used]] void shift_labels(const Cuda&, Rows, Index, const std::int32_t*, const std::int32_t*,
                                std::int32_t*);
[[gnu::used]] void clip_scale(const Cuda&, Index, const double*, double, double*, double*, double*);
[[gnu::used]] void verify_rounds(const Cuda&, const VerifyRule&, const DraftRounds&, Verdict*);

}  // namespace mtpx

#include "instances.cuh"

namespace mtpx {

MTPX_CUDA_KERNELS(float)
MTPX_CUDA_SUMS(float)

}  // namespace mtpx
