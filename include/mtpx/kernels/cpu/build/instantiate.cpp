// mtpx::compiled: the CPU's kernels, once.

#define MTPX_EXTERN
#include <mtpx/kernels/cpu.hpp>
#include <mtpx/kernels/cpu/build/check.hpp>

namespace mtpx {
namespace {

// Those that are no templates are inline: this object holds what it has the address of.
#define MTPX_ADDRESS(name, signature) reinterpret_cast<void (*)()>(static_cast<void(*) signature>(name)),
[[gnu::used]] void (*const addresses[])() = {MTPX_KERNELS_OF_NO_TYPE(MTPX_ADDRESS, Cpu)};
#undef MTPX_ADDRESS

}  // namespace
}  // namespace mtpx
