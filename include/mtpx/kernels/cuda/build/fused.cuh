#pragma once
// The CUDA kernels of a fused decoding pass, in bf16.

#include "../decode/blocks.cuh"
#include "../decode/inputs.cuh"
#include "../decode/tokens.cuh"
