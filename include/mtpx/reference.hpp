#pragma once
// The door to the device Reference and its kernels, which nothing else includes: who does not compare does
// not compile them. Where in a file this stands does not matter, as long as nothing before it runs on a
// Reference. (For AVX-512, g++ 12 warns of Eigen's products: it takes undefined registers of its own headers
// for mistakes.)

#include <mtpx/core/reference.hpp>
#include <mtpx/kernels.hpp>

#include "kernels/eigen/adamw.hpp"
#include "kernels/eigen/attention.hpp"
#include "kernels/eigen/clip_scale.hpp"
#include "kernels/eigen/elementwise.hpp"
#include "kernels/eigen/embedding.hpp"
#include "kernels/eigen/exchange.hpp"
#include "kernels/eigen/experts.hpp"
#include "kernels/eigen/fold.hpp"
#include "kernels/eigen/functions.hpp"
#include "kernels/eigen/latent_attention.hpp"
#include "kernels/eigen/linear.hpp"
#include "kernels/eigen/linear_cross_entropy.hpp"
#include "kernels/eigen/linear_distillation.hpp"
#include "kernels/eigen/matmul.hpp"
#include "kernels/eigen/normals.hpp"
#include "kernels/eigen/positions.hpp"
#include "kernels/eigen/reduce.hpp"
#include "kernels/eigen/rms_norm.hpp"
#include "kernels/eigen/rope.hpp"
#include "kernels/eigen/router.hpp"
#include "kernels/eigen/sample.hpp"
#include "kernels/eigen/softmax.hpp"
#include "kernels/eigen/state_cache.hpp"
#include "kernels/eigen/swiglu.hpp"
#include "kernels/eigen/verify.hpp"
#include "kernels/list.hpp"
#ifdef MTPX_COMPILED_REFERENCE
#include "kernels/eigen/build/instances.hpp"
#endif

namespace mtpx {

MTPX_KERNELS_IN_DOUBLE(MTPX_CHECK_KERNEL, Reference)
MTPX_KERNELS_IN_FLOAT(MTPX_CHECK_KERNEL, Reference)
MTPX_KERNELS_OF_INT8(MTPX_CHECK_KERNEL, Reference, float)
MTPX_KERNELS_OF_PACKED(MTPX_CHECK_KERNEL, Reference, float)
MTPX_KERNELS_OF_NO_TYPE(MTPX_CHECK_KERNEL, Reference)

}  // namespace mtpx
