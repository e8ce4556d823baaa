#pragma once
// The CUDA twins that are templates.

#include "../adamw.cuh"
#include "../attention.cuh"
#include "../elementwise.cuh"
#include "../embedding.cuh"
#include "../experts.cuh"
#include "../latent_attention.cuh"
#include "../linear.cuh"
#include "../linear_cross_entropy.cuh"
#include "../normals.cuh"
#include "../rms_norm.cuh"
#include "../rope.cuh"
#include "../router.cuh"
#include "../sample.cuh"
#include "../state_cache.cuh"
#include "../swiglu.cuh"
