// normal() of card.hpp, optimised: tests fill their models with it. With no more headers than it takes.

#include <mtpx/core/rng.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/kernels/normals.hpp>

#include <cmath>

namespace mtpx::test {

double normal(std::uint64_t seed, std::uint64_t stream, Index i) {
  const auto block = Philox::block(seed, stream, static_cast<std::uint64_t>(i));
  const std::uint32_t words[4] = {block[0], block[1], block[2], block[3]};
  float n[4];
  exact::normals<float>(
      words, [](float x) { return std::sqrt(x); }, n);
  return static_cast<double>(n[0]);
}

}  // namespace mtpx::test
