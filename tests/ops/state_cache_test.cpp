#include <mtpx/ops/state_cache.hpp>

#include "support/card.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/state_cache.hpp");

namespace {

DecodeRows<Device> rows(const std::vector<std::int32_t>& sequences,
                        const std::vector<std::int32_t>& positions) {
  const auto n = static_cast<Index>(sequences.size());
  return {tensor<std::int32_t>({n}, sequences), tensor<std::int32_t>({n}, positions)};
}

}  // namespace

TEST_CASE_TEMPLATE("store_rows, gather_rows: rows find their entries and come back in any order", T, double,
                   float, bf16) {
  for (const Index width : {1, 5, 32}) {  // 32: whole packs on a GPU
    CAPTURE(width);
    const StateCache<T, Device> cache{Tensor<T, Device>::zeros(device(), {3, 4, width})};
    CHECK(cache.capacity() == 4);
    const auto x = random_tensor<T>({1, 3, width}, 7);
    store_rows(x, rows({2, 0, 1}, {3, 1, 0}), cache);
    const Numbers from = host(x);
    Numbers want(static_cast<std::size_t>(12 * width), 0.0);
    const std::ptrdiff_t entries[] = {2 * 4 + 3, 0 * 4 + 1, 1 * 4 + 0};
    for (std::ptrdiff_t r = 0; r < 3; ++r)
      std::copy_n(from.begin() + r * width, width, want.begin() + entries[r] * width);
    check_bits(host(cache.entries), want);

    const auto y = gather_rows(cache, rows({1, 2, 2, 0}, {0, 3, 3, 0}));  // one twice, one never written
    CHECK(y.shape() == Shape{1, 4, width});
    Numbers picked;
    for (const std::ptrdiff_t r : {2, 0, 0})
      picked.insert(picked.end(), from.begin() + r * width, from.begin() + (r + 1) * width);
    picked.resize(static_cast<std::size_t>(4 * width), 0.0);
    check_bits(host(y), picked);
  }
}

TEST_CASE("store_rows: as many rows as places, as wide as the cache") {
  const StateCache<double, Device> cache{Tensor<double, Device>::zeros(device(), {1, 4, 2})};
  CHECK_THROWS_WITH_AS(store_rows(random_tensor<double>({1, 2, 3}, 1), rows({0, 0}, {0, 1}), cache),
                       "[store_rows] one dense row for each decoded token, as wide as the cache\n"
                       "  x: [1, 2, 3]\n  cache: [1, 4, 2]\n  rows: [2]",
                       ShapeError);
  CHECK_THROWS_AS(store_rows(random_tensor<double>({1, 1, 2}, 1), rows({0, 0}, {0, 1}), cache), ShapeError);
}

TEST_SUITE_END();
