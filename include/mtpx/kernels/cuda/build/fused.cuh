#pragma once
// The CUDA kernels of a fused decoding pass, in bf16.

#include "../decode/attention.cuh"
#include "../decode/feed_forward.cuh"
#include "../decode/tokens.cuh"
