#pragma once
// The CUDA twins themselves, for nvcc.

#include "adamw.cuh"
#include "attention.cuh"
#include "decode_attention.cuh"
#include "decode_feed_forward.cuh"
#include "decode_sample.cuh"
#include "elementwise.cuh"
#include "embedding.cuh"
#include "experts.cuh"
#include "latent_attention.cuh"
#include "linear.cuh"
#include "linear_cross_entropy.cuh"
#include "rms_norm.cuh"
#include "rope.cuh"
#include "router.cuh"
#include "sample.cuh"
#include "swiglu.cuh"
