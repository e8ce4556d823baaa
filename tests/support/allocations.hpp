#pragma once

#include <cstddef>

namespace mtpx::test {

/// How often this program has called operator new.
std::size_t allocations();

}  // namespace mtpx::test
