#pragma once

#include <cstddef>

namespace mtpx::test {

/// How often this program has called operator new.
std::size_t allocations();

/// From now on, the allocation after `count` more fails, once; where `all`, those after it fail, too.
void fail_allocation(std::size_t count, bool all = false);

/// No allocation fails any more. Returns whether one has.
bool stop_failing();

}  // namespace mtpx::test
