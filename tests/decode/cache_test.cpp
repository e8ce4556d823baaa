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
    for (const auto* layers : {&cache.trunk, &cache.modules, &cache.states}) {
      for (const auto& layer : *layers) {
        CHECK(layer.entries.shape() == Shape{4, 50, layers == &cache.states ? 8 : 7 + 4});
        CHECK(layer.capacity() == 50);
        for (const double x : host(layer.entries)) CHECK(x == 0);
      }
    }
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

TEST_CASE("store_rows, load_rows: rows find their entries and come back in any order") {
  const LatentCache<double, Cpu> cache{Tensor<double, Cpu>::zeros(device(), {3, 4, 2})};
  RowList list;
  list.add(0, 2, 3);
  list.add(0, 0, 1);
  list.add(0, 1, 0);
  const auto x = tensor<double>({1, 3, 2}, {1, 2, 3, 4, 5, 6});
  store_rows(x, decode_rows(device(), list, 0, 3), cache);
  Numbers expected(24, 0.0);
  expected[(2 * 4 + 3) * 2] = 1;
  expected[(2 * 4 + 3) * 2 + 1] = 2;
  expected[(0 * 4 + 1) * 2] = 3;
  expected[(0 * 4 + 1) * 2 + 1] = 4;
  expected[(1 * 4 + 0) * 2] = 5;
  expected[(1 * 4 + 0) * 2 + 1] = 6;
  CHECK(host(cache.entries) == expected);
  std::vector<std::int32_t> places;
  CHECK(host(load_rows(cache, list, 1, 3, places)) == Numbers{3, 4, 5, 6});
  CHECK(load_rows(cache, list, 0, 3, places).shape() == Shape{1, 3, 2});
}

TEST_SUITE_END();
