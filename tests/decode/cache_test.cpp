#include <mtpx/decode/cache.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/cache.hpp");

TEST_CASE("KvCache: latent and rotated key per token, layer and module; no heads") {
  const Transformer<double, Cpu> model(device(), mixture_config(2));
  const KvCache<double, Cpu> cache(model, 4, 50);
  CHECK(cache.capacity == 50);
  CHECK(cache.trunk.size() == 3);
  CHECK(cache.modules.size() == 2);
  for (const auto* layers : {&cache.trunk, &cache.modules}) {
    for (const auto& layer : *layers) {
      CHECK(layer.entries.shape() == Shape{4, 50, 7 + 4});
      CHECK(layer.capacity() == 50);
      for (const double x : host(layer.entries)) CHECK(x == 0);
    }
  }
}

TEST_CASE("decode_rows: consecutive positions of one sequence") {
  const auto rows = decode_rows(device(), 3, 10, 4);
  CHECK(rows.count() == 4);
  CHECK(rows.sequences.to_host() == std::vector<std::int32_t>{3, 3, 3, 3});
  CHECK(rows.positions.to_host() == std::vector<std::int32_t>{10, 11, 12, 13});
}

TEST_SUITE_END();
