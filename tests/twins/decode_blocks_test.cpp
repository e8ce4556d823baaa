// Fused blocks of a decoding pass on a GPU: against the ops one by one, bits of a row alone and beside
// others.

#include <mtpx/decode/generate.hpp>
#include <mtpx/mtp/module.hpp>

#include "twins/fused_configs.hpp"
#include "twins/twins.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("twins: decoding");

namespace {

/// One block over rows of two sequences, some rows a pass; what comes out, and the cache.
template <typename Run>
std::pair<Numbers, Numbers> block_passes(const Transformer<bf16, Cuda>& model, const Tensor<bf16, Cuda>& x,
                                         const RowList& list, const std::vector<Index>& passes,
                                         const Run& run) {
  const LatentCache<bf16, Cuda> cache{Tensor<bf16, Cuda>::zeros(
      model.device(), {2, 700, model.config.kv_lora_rank + model.config.qk_rope_head_dim})};
  Tape tape(Mode::inference);
  Numbers all;
  Index begin = 0;
  const Index width = x.shape().width();
  for (const Index count : passes) {
    const auto rows = decode_rows(model.device(), list, begin, begin + count);
    const auto part = x.slice_front(begin, begin + count).reshape({1, count, width});
    const Numbers y = host(run(model.layers[0], tape.constant(part), rows, cache).value());
    all.insert(all.end(), y.begin(), y.end());
    begin += count;
  }
  return {all, host(cache.entries)};
}

}  // namespace

TEST_CASE("twins: a fused block is the block op by op, and a row's bits are its own") {
  std::vector<std::pair<Config, double>> all{{long_config(), 0.03}};  // and how large weights are
  for (const bool low_rank : {true, false}) {
    for (const bool mixture : {true, false}) all.emplace_back(fused_config(mixture, low_rank), 0.1);
    all.emplace_back(wide_config(low_rank), 0.1);
  }
  for (const auto& [heads, hidden] : {std::pair<Index, Index>{6, 192}, {8, 160}, {11, 256}, {3, 96}})
    all.emplace_back(cluster_config(heads, hidden), 0.1);
  for (const auto& one : all) {
    const Config& c = one.first;
    const double scale = one.second;
    INFO("hidden " << c.hidden_size << ", experts " << c.n_routed_experts << ", low rank " << c.q_lora_rank);
    const auto model = random_model<bf16, Cuda>(c, 7, scale);
    RowList list;
    for (Index p = 0; p < 16; ++p) list.add(0, 0, p);
    for (Index p = 300; p < 310; ++p) list.add(0, 1, p);
    Tensor<bf16, Cuda> x(device<Cuda>(), {26, c.hidden_size});
    std::vector<bf16> values;
    for (Index i = 0; i < x.size(); ++i) values.push_back(bf16(static_cast<float>(normal(3, 3, i))));
    x.assign(values);
    const auto fused = [&](const auto& block, const auto& in, const auto& rows, const auto& cache) {
      REQUIRE(
          decode_fits(block.self_attn.decode_shape(block.input_layernorm, model.rope_table, rows, cache)));
      return block.decode(in, model.rope_table, rows, cache);
    };
    const auto composed = [&](const auto& block, const auto& in, const auto& rows, const auto& cache) {
      return block(in, [&](const auto& mla,
                           const auto& normed) { return mla.decode(normed, model.rope_table, rows, cache); })
          .y;
    };
    const std::vector<Index> sixteen{16, 10}, single(26, 1), mixed{1, 3, 12, 2, 8};
    const auto [want, entries] = block_passes(model, x, list, sixteen, composed);
    const auto [got, cache] = block_passes(model, x, list, sixteen, fused);
    check_close(got, want, bf16_bound);
    check_close(cache, entries, bf16_bound, "cache");
    for (const auto& passes : {single, mixed}) {
      const auto again = block_passes(model, x, list, passes, fused);
      check_bits(again.first, got);
      check_bits(again.second, cache, "cache");
      const auto one_by_one = block_passes(model, x, list, passes, composed);
      check_bits(one_by_one.first, want, "op by op");
      check_bits(one_by_one.second, entries, "cache, op by op");
    }
  }
}

TEST_CASE("twins: layers of one launch have the bits of launches of one layer") {
  const auto model = random_model<bf16, Cuda>(cluster_config(6, 192), 7, 0.1);
  RowList list;
  for (Index p = 0; p < 5; ++p) list.add(0, 1, p);
  for (Index p = 600; p < 606; ++p) list.add(0, 0, p);
  Tensor<bf16, Cuda> x(device<Cuda>(), {1, 11, model.config.hidden_size});
  std::vector<bf16> values;
  for (Index i = 0; i < x.size(); ++i) values.push_back(bf16(static_cast<float>(normal(3, 3, i))));
  x.assign(values);
  const auto rows = decode_rows(model.device(), list, 0, 11);
  const auto passed = [&](bool together) {
    std::vector<LatentCache<bf16, Cuda>> caches;
    for (int i = 0; i < 3; ++i) caches.push_back({Tensor<bf16, Cuda>::zeros(model.device(), {2, 700, 80})});
    Tape tape(Mode::inference);
    const Tensor<std::int32_t, Cuda> none;
    const CachedRows<bf16, Cuda> way{none, rows, caches, 0, model.rope_table};
    Var<bf16, Cuda> y = tape.constant(x);
    if (together) {
      y = way.run_all(0, model.layers, y);
    } else {
      for (Index i = 0; i < 3; ++i) y = way.run(i, model.layers[static_cast<std::size_t>(i)], y).y;
    }
    Numbers all = host(y.value());
    for (const auto& cache : caches) {
      const Numbers entries = host(cache.entries);
      all.insert(all.end(), entries.begin(), entries.end());
    }
    return all;
  };
  check_bits(passed(true), passed(false));
}

TEST_CASE("twins: what a depth reads is the ops one by one, in one launch, and a row's bits are its own") {
  const auto random = [](const Tensor<bf16, Cuda>& to, std::uint64_t seed, double scale) {
    std::vector<bf16> values;
    for (Index i = 0; i < to.size(); ++i)
      values.push_back(bf16(static_cast<float>(scale * normal(seed, 1, i))));
    to.assign(values);
  };
  for (const Index hidden : {96, 192, 1032}) {
    for (const MtpConcat order : {MtpConcat::embedding_hidden, MtpConcat::hidden_embedding}) {
      INFO("hidden " << hidden);
      const MtpInput<bf16, Cuda> input(device<Cuda>(), hidden, 1e-6, order);
      random(input.eh_proj.weight.value(), 3, 0.1);
      for (const auto& [norm, seed] : {std::pair(&input.enorm, std::uint64_t{4}), {&input.hnorm, 5}}) {
        std::vector<float> gains;
        for (Index i = 0; i < hidden; ++i) gains.push_back(1 + static_cast<float>(0.3 * normal(seed, 1, i)));
        norm->weight.value().assign(gains);
      }
      const Tensor<bf16, Cuda> e(device<Cuda>(), {1, 16, hidden}), h(device<Cuda>(), {1, 16, hidden});
      random(e, 6, 1);
      random(h, 7, 3);
      Tape tape(Mode::inference);
      const Var<bf16, Cuda> token = tape.constant(e), state = tape.constant(h);
      const Var<bf16, Cuda> a = input.enorm(token), b = input.hnorm(state);
      const Numbers got = host(input.read(state, token).value());
      check_close(
          got,
          host(input.eh_proj(order == MtpConcat::embedding_hidden ? concat(a, b) : concat(b, a)).value()),
          bf16_bound);
      for (const Index count : {1, 2, 3, 9}) {
        const auto some = [&](const Tensor<bf16, Cuda>& x) {
          return tape.constant(x.reshape({16, hidden}).slice_front(5, 5 + count).reshape({1, count, hidden}));
        };
        const Numbers few = host(input.read(some(h), some(e)).value());
        check_bits(few, Numbers(got.begin() + 5 * hidden, got.begin() + (5 + count) * hidden));
      }
    }
  }
}

TEST_SUITE_END();
