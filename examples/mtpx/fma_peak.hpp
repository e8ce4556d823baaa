#pragma once

#include <mtpx/core/cpu.hpp>

namespace program {

/// Operations a second that all threads together reach with fused multiply-adds in registers: 2 a
/// multiply-add.
double fma_peak(const mtpx::Cpu& cpu);

}  // namespace program
