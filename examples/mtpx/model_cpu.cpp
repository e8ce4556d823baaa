// The model that every subcommand runs, instantiated once: on the CPU.

#include "model.hpp"

namespace mtpx {
MTPX_MODEL(, float, Cpu)
MTPX_MODEL(, bf16, Cpu)
}  // namespace mtpx
