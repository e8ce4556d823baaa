#include <mtpx/decode/cache.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/cache.hpp");

TEST_CASE("KvCache: latent and rotated key per token, layer and module; no heads; states only for modules") {
  const Transformer<double, Cpu> model(device(), mixture_config(2));
  for (const Index modules : {0, 1, 2}) {
    const KvCache<double, Cpu> cache(model, 4, 50, modules);
    CHECK(cache.capacity == 50);
    CHECK(cache.trunk.size() == 3);
    CHECK(cache.modules.size() == static_cast<std::size_t>(modules));
    CHECK(cache.states.size() == static_cast<std::size_t>(modules));
    const auto check = [](const auto& caches, Index width) {
      for (const auto& one : caches) {
        CHECK(one.entries.shape() == Shape{4, 50, width});
        CHECK(one.capacity() == 50);
        for (const double x : host(one.entries)) CHECK(x == 0);
      }
    };
    check(cache.trunk, 7 + 4);
    check(cache.modules, 7 + 4);
    check(cache.states, 8);
  }
}

TEST_CASE("decode_rows: consecutive positions of one sequence") {
  const auto rows = decode_rows(device(), 3, 10, 4);
  CHECK(rows.count() == 4);
  CHECK(rows.sequences.to_host() == std::vector<std::int32_t>{3, 3, 3, 3});
  CHECK(rows.positions.to_host() == std::vector<std::int32_t>{10, 11, 12, 13});
}

TEST_CASE("decode_rows: a part of a list of several sequences") {
  RowList list;
  list.add(7, 2, 5);
  list.add(8, 0, 1);
  list.add(9, 2, 6);
  const auto rows = decode_rows(device(), list, 1, 3);
  CHECK(rows.sequences.to_host() == std::vector<std::int32_t>{0, 2});
  CHECK(rows.positions.to_host() == std::vector<std::int32_t>{1, 6});
  CHECK(list.size() == 3);
  list.clear();
  CHECK(list.size() == 0);
}

TEST_SUITE_END();
