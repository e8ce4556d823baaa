#pragma once
// The CPU's kernels. <mtpx/kernels.hpp> brings them, but to users of mtpx::compiled, which holds them: these
// see declarations alone, and here is what one of them includes who wants a kernel's inside.

#include "cpu/adamw.hpp"
#include "cpu/attention.hpp"
#include "cpu/clip_scale.hpp"
#include "cpu/elementwise.hpp"
#include "cpu/embedding.hpp"
#include "cpu/exchange.hpp"
#include "cpu/experts.hpp"
#include "cpu/fold.hpp"
#include "cpu/functions.hpp"
#include "cpu/latent_attention.hpp"
#include "cpu/linear.hpp"
#include "cpu/linear_cross_entropy.hpp"
#include "cpu/linear_distillation.hpp"
#include "cpu/matmul.hpp"
#include "cpu/normals.hpp"
#include "cpu/positions.hpp"
#include "cpu/reduce.hpp"
#include "cpu/rms_norm.hpp"
#include "cpu/rope.hpp"
#include "cpu/router.hpp"
#include "cpu/sample.hpp"
#include "cpu/softmax.hpp"
#include "cpu/state_cache.hpp"
#include "cpu/swiglu.hpp"
#include "cpu/verify.hpp"
#include "list.hpp"
#ifdef MTPX_COMPILED
#include "cpu/build/instances.hpp"
#endif
