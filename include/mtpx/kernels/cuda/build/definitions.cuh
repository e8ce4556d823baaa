#pragma once
// All CUDA kernels, for a .cu file that links no library.

#include "fused.cuh"
#include "typed.cuh"
#include "untyped.cuh"
