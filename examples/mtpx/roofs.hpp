#pragma once

#include <mtpx/core/cpu.hpp>

namespace program {

/// Operations a second that all threads together reach with fused multiply-adds in registers: 2 a
/// multiply-add.
double fma_peak(const mtpx::Cpu& cpu);

/// Bytes a second at which all threads together read `bytes` of memory again and again: the best of several.
double read_rate(const mtpx::Cpu& cpu, double bytes);

}  // namespace program
