#pragma once
// The CUDA twins that are no templates. Every object that sees their definitions holds their kernels.

#include "../clip_scale.cuh"
#include "../positions.cuh"
#include "../verify.cuh"
