#include <mtpx/core/rng.hpp>

#include <doctest/doctest.h>

using mtpx::Philox;

namespace {
using Words = std::array<std::uint32_t, 4>;
}

// The known answers of Random123 1.14 (kat_vectors, philox4x32 with 10 rounds).
TEST_CASE("Philox4x32-10 gives Random123's known answers") {
  CHECK(Philox::block(0, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(Philox::block(~0ull, ~0ull, ~0ull) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(Philox::block(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("Philox: seed, stream and counter each change every word") {
  const Words base = Philox::block(1, 2, 3);
  for (const Words& other : {Philox::block(2, 2, 3), Philox::block(1, 3, 3), Philox::block(1, 2, 4),
                             Philox::block(1 | 1ull << 32, 2, 3), Philox::block(1, 2 | 1ull << 32, 3),
                             Philox::block(1, 2, 3 | 1ull << 32)}) {
    for (std::size_t word = 0; word < 4; ++word) CHECK(other[word] != base[word]);
  }
}
