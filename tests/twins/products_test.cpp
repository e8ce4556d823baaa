// Products, experts, the loss over the vocabulary, decoding.

#include <mtpx/ops/experts.hpp>
#include <mtpx/ops/latent_attention.hpp>
#include <mtpx/ops/linear.hpp>
#include <mtpx/ops/linear_cross_entropy.hpp>
#include <mtpx/ops/linear_distillation.hpp>

#include "twins/twins.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("twins: products");

namespace {

constexpr Index few_rows = 64;  // of products that a GPU sums in another order

/// K different experts a token; `ragged`: the first gets most, the last none.
template <typename D>
Tensor<std::int32_t, D> choose(ExpertsShape s, bool ragged) {
  std::vector<std::int32_t> ids;
  const Index among = ragged ? s.experts - 1 : s.experts;
  const std::vector<std::int32_t> draws = random_ids<Cpu>({s.tokens}, 7, 0, 4 * among).to_host();
  for (const std::int32_t draw : draws) {
    const Index first = ragged && draw >= among ? 0 : draw % among;
    for (Index k = 0; k < s.top_k; ++k) ids.push_back(static_cast<std::int32_t>((first + k) % among));
  }
  return tensor<std::int32_t, D>({s.tokens, s.top_k}, ids);
}

}  // namespace

TEST_CASE("twins: linear") {
  TwinErrors errors("linear", one_rounding);
  struct Sizes {
    Index in, out;
  };
  for (const Index rows : {1, 5, 64, 65, 300}) {
    for (const Sizes& sizes : {Sizes{256, 384}, Sizes{100, 51}, Sizes{33, 8}}) {
      CAPTURE(rows);
      CAPTURE(sizes.in);
      const auto make = [&]<typename T, typename D>() {
        return Card(
            {"x", "w"}, [](const auto& x, const auto& w) { return linear(x, w); },
            activation(random_tensor<T, D>({rows, sizes.in}, 1)),
            weight(random_tensor<T, D>({sizes.out, sizes.in}, 2)));
      };
      errors.check(make, rows <= few_rows);
      if (sizes.out == 51) {
        errors.check(
            [&]<typename T, typename D>() { return make.template operator()<T, D>().template strided<0>(); },
            rows <= few_rows);
      }
    }
  }
}

TEST_CASE("twins: the router's product, and logits: bf16 in, float out") {
  for (const Index rows : {1, 5, 64, 65, 300}) {
    CAPTURE(rows);
    const auto router = [&]<typename D>(const D&) {
      return Card(
          {"x", "w"}, [](const auto& x, const auto& w) { return linear(x, w); },
          activation(random_tensor<bf16, D>({rows, 256}, 1)), weight(random_tensor<float, D>({64, 256}, 2)));
    };
    const Result got = router(device<Cuda>()).run(), want = router(device<Cpu>()).run();
    check_close(got.value, want.value, float_bound);
    check_close(got.grads[0], want.grads[0], one_rounding, "gradient of x");
    check_close(got.grads[1], want.grads[1], float_bound, "gradient of w");

    const auto logits = [&]<typename D>(const D& on) {
      const auto x = random_tensor<bf16, D>({rows, 256}, 1), w = random_tensor<bf16, D>({1001, 256}, 2);
      const Tensor<float, D> y(on, {rows, 1001});
      poison(y);
      linear_forward(on, x.rows(), x.data(), 1001, w.data(), y.data());
      return host(y);
    };
    check_close(logits(device<Cuda>()), logits(device<Cpu>()), float_bound, "logits");
  }
}

TEST_CASE("twins: plan_experts") {
  for (const Index experts : {1, 5, 64, 256}) {
    for (const Index tokens : {0, 1, 33, 700}) {
      const auto plan = [&]<typename D>(const D&) {
        const auto load = random_tensor<float, D>({experts}, 4);
        const auto p = plan_experts(random_ids<D>({tokens, 4}, 3, 0, experts), experts, load);
        std::vector<std::int32_t> all = p.offsets.to_host();
        for (const auto& part : {p.slot.to_host(), p.place.to_host()})
          all.insert(all.end(), part.begin(), part.end());
        return std::pair(all, host(load));
      };
      CHECK(plan(device<Cuda>()) == plan(device<Cpu>()));
    }
  }
}

TEST_CASE("twins: experts") {
  // In bf16 both round what goes from one product to the next: a rounding apart here is one apart there.
  TwinErrors errors("experts", bf16_bound);
  for (const ExpertsShape& s :
       {ExpertsShape{1, 256, 128, 8, 2}, ExpertsShape{40, 128, 64, 4, 2}, ExpertsShape{64, 256, 128, 8, 2},
        ExpertsShape{300, 256, 64, 8, 2}, ExpertsShape{150, 128, 64, 16, 6}, ExpertsShape{7, 9, 10, 3, 2}}) {
    for (const bool ragged : {false, true}) {
      CAPTURE(s.tokens);
      CAPTURE(s.width);
      CAPTURE(ragged);
      errors.check(
          [&]<typename T, typename D>() {
            return Card(
                {"x", "weights", "gate", "up", "down"},
                [plan = plan_experts(choose<D>(s, ragged), s.experts, Tensor<acc_t<T>, D>())](
                    const auto& x, const auto& weights, const auto& gate, const auto& up, const auto& down) {
                  return experts(x, weights, plan, gate, up, down);
                },
                activation(random_tensor<T, D>({s.tokens, s.width}, 1)),
                activation(random_tensor<acc_t<T>, D>({s.tokens, s.top_k}, 2, 0.5, 1)),
                weight(random_tensor<T, D>({s.experts, s.inner, s.width}, 3)),
                weight(random_tensor<T, D>({s.experts, s.inner, s.width}, 4)),
                weight(random_tensor<T, D>({s.experts, s.width, s.inner}, 5)));
          },
          s.tokens <= few_rows);
    }
  }
}

TEST_CASE("twins: linear_cross_entropy") {
  TwinErrors errors("linear_cross_entropy", inner_rounding);
  struct Sizes {
    Index rows, width, vocab;
  };
  for (const Sizes& s :
       {Sizes{1, 256, 1000}, Sizes{130, 256, 1000}, Sizes{300, 128, 4103}, Sizes{65, 33, 257}}) {
    for (const Index divisor : {0, 500}) {
      CAPTURE(s.rows);
      CAPTURE(s.vocab);
      const auto labels = [&]<typename D>(const D&) {
        return random_ids<D>({s.rows}, 3, -s.vocab / 9, s.vocab);
      };
      errors.check([&]<typename T, typename D>() {
        return Card(
            {"x", "w"},
            [=](const auto& x, const auto& w) {
              return linear_cross_entropy(x, w, labels(x.device()), divisor).loss;
            },
            activation(random_tensor<T, D>({s.rows, s.width}, 1)),
            weight(random_tensor<T, D>({s.vocab, s.width}, 2, 0.5)));
      });
      const auto rows = [&]<typename D>(const D& on) {
        Tape tape(Mode::inference);
        const auto out = linear_cross_entropy(tape.constant(random_tensor<float, D>({s.rows, s.width}, 1)),
                                              weight(random_tensor<float, D>({s.vocab, s.width}, 2, 0.5)),
                                              labels(on), divisor);
        return std::pair(host(out.row_loss), out.argmax.to_host());
      };
      const auto [got, got_best] = rows(device<Cuda>());
      const auto [want, want_best] = rows(device<Cpu>());
      check_close(got, want, no_difference<float>(), "row_loss");
      CHECK(got_best == want_best);
    }
  }
}

TEST_CASE("twins: linear_distillation") {
  TwinErrors errors("linear_distillation", inner_rounding);
  struct Sizes {
    Index rows, width, vocab;
  };
  for (const Sizes& s : {Sizes{130, 256, 1000}, Sizes{300, 128, 4103}, Sizes{65, 33, 257}}) {
    for (const auto divergence : {Divergence::cross_entropy, Divergence::kl, Divergence::total_variation}) {
      CAPTURE(s.rows);
      CAPTURE(static_cast<int>(divergence));
      errors.check([&]<typename T, typename D>() {
        const Teacher<T, D> teacher{random_tensor<T, D>({s.rows, s.width}, 4),
                                    random_tensor<T, D>({s.vocab, s.width}, 5, 0.5)};
        return Card(
            {"x", "w"},
            [=, labels = random_ids<D>({s.rows}, 3, -s.vocab / 9, s.vocab)](const auto& x, const auto& w) {
              return linear_distillation(x, w, teacher, labels, divergence, 0.75).loss;
            },
            activation(random_tensor<T, D>({s.rows, s.width}, 1)),
            weight(random_tensor<T, D>({s.vocab, s.width}, 2, 0.5)));
      });
    }
  }
}

TEST_CASE("twins: latent_attention") {
  struct Sizes {
    AttentionShape s;
    Index latent, rows;
  };
  for (const Sizes& sizes : {Sizes{{3, 200, 4, 128, 64, 128}, 512, 64}, Sizes{{3, 200, 4, 32, 16, 32}, 64, 1},
                             Sizes{{3, 200, 2, 128, 64, 128}, 128, 5}, Sizes{{3, 70, 3, 5, 2, 7}, 9, 33}}) {
    const AttentionShape& s = sizes.s;
    CAPTURE(sizes.latent);
    CAPTURE(sizes.rows);
    bool tree = false;
    const auto run = [&]<typename T, typename D>() {
      const Index n = sizes.rows;
      // Distinct places, so that no row overwrites another's.
      std::vector<std::int32_t> sequences, positions;
      for (Index r = 0; r < n; ++r) {
        sequences.push_back(static_cast<std::int32_t>(r % s.batch));
        positions.push_back(static_cast<std::int32_t>(s.time - 1 - r / s.batch * 2));
      }
      DecodeRows<D> rows{tensor<std::int32_t, D>({n}, sequences), tensor<std::int32_t, D>({n}, positions)};
      if (tree) {  // each with its last three entries elsewhere, its own at its position
        std::vector<std::int32_t> paths;
        for (const std::int32_t p : positions) {
          const std::int32_t first = std::max(0, p - 3);
          for (const std::int32_t one : {first, first / 2, first / 3, first / 4, p}) paths.push_back(one);
          paths[paths.size() - 5 + static_cast<std::size_t>(1 + p - first)] = p;
        }
        rows.own_places = rows.positions;
        rows.paths = tensor<std::int32_t, D>({n, 5}, paths);
      }
      const LatentCache<T, D> cache{random_tensor<T, D>({s.batch, s.time, sizes.latent + s.rope}, 5)};
      const auto in = [&](Index width, std::uint64_t stream) {
        return random_tensor<T, D>({1, n, width}, stream);
      };
      Tape tape(Mode::inference);
      const auto o =
          latent_attention(tape.constant(in(s.heads * (s.nope + s.rope), 1)),
                           tape.constant(in(sizes.latent, 2)), tape.constant(in(s.rope, 3)),
                           weight(random_tensor<T, D>({s.heads * (s.nope + s.v), sizes.latent}, 4, 0.2)), s,
                           static_cast<acc_t<T>>(0.1), rows, cache);
      return std::pair(host(o.value()), host(cache.entries));
    };
    const auto twins = [&]<typename T>(T, double bound) {
      const auto [got, got_cache] = run.template operator()<T, Cuda>();
      const auto [want, want_cache] = run.template operator()<T, Cpu>();
      check_close(got, want, bound);
      check_bits(got_cache, want_cache, "cache");
    };
    for (const bool with_tree : {false, true}) {
      tree = with_tree;
      twins(0.0F, float_bound);
      twins(bf16(), one_rounding);  // everything inside is float on both sides
    }
  }
}

TEST_CASE("twins: prompt_attention, behind none or some entries") {
  for (const AttentionShape& s :
       {AttentionShape{2, 300, 4, 128, 64, 128}, AttentionShape{2, 300, 3, 128, 64, 192},
        AttentionShape{2, 300, 2, 64, 32, 64}, AttentionShape{2, 300, 2, 64, 64, 192},
        AttentionShape{2, 150, 2, 24, 16, 40}}) {
    for (const Index before : {0, 1, 64, 128, 139}) {
      CAPTURE(s.v);
      CAPTURE(before);
      const Index latent = 72, n = s.time - before;
      const auto run = [&]<typename T, typename D>() {
        std::vector<std::int32_t> positions;
        for (Index p = before; p < s.time; ++p) positions.push_back(static_cast<std::int32_t>(p));
        const DecodeRows<D> rows{
            tensor<std::int32_t, D>({n}, std::vector<std::int32_t>(static_cast<std::size_t>(n), 1)),
            tensor<std::int32_t, D>({n}, positions),
            {},
            {},
            {1, before}};
        const LatentCache<T, D> cache{random_tensor<T, D>({s.batch, s.time + 5, latent + s.rope}, 5)};
        const auto in = [&](Index width, std::uint64_t stream) {
          return random_tensor<T, D>({1, n, width}, stream);
        };
        Tape tape(Mode::inference);
        const auto o =
            prompt_attention(tape.constant(in(s.heads * (s.nope + s.rope), 1)), tape.constant(in(latent, 2)),
                             tape.constant(in(s.rope, 3)),
                             weight(random_tensor<T, D>({s.heads * (s.nope + s.v), latent}, 4, 0.2)), s,
                             static_cast<acc_t<T>>(0.1), rows, cache);
        return std::pair(host(o.value()), host(cache.entries));
      };
      const auto twins = [&]<typename T>(T, double bound) {
        const auto [got, got_cache] = run.template operator()<T, Cuda>();
        const auto [want, want_cache] = run.template operator()<T, Cpu>();
        check_close(got, want, bound);
        check_bits(got_cache, want_cache, "cache");
      };
      twins(0.0F, float_bound);
      twins(bf16(), inner_rounding);
    }
  }
}

TEST_CASE("twins: argmax_rows, with ties and NaN") {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const Index width : {1, 7, 1000, 4103, 130000}) {
    CAPTURE(width);
    const auto best = [&]<typename D>(const D& on) {
      std::vector<float> logits;  // of few values: the largest again and again
      for (const std::int32_t level : random_ids<Cpu>({7, width}, 1, 0, 50).to_host())
        logits.push_back(static_cast<float>(level));
      const auto row = [&](Index r) { return logits.begin() + r * width; };
      std::fill(row(1), row(2), nan);
      std::fill(row(2), row(3), -infinity);
      *row(3) = nan;
      std::fill(row(4), row(5), nan);
      *(row(5) - 1) = -infinity;
      const auto x = tensor<float, D>({7, width}, logits);
      const Tensor<std::int32_t, D> ids(on, {7});
      poison(ids);
      argmax_rows(on, x.rows(), x.data(), ids.data());
      return ids.to_host();
    };
    CHECK(best(device<Cuda>()) == best(device<Cpu>()));
  }
}

TEST_CASE("twins: positions and labels") {
  const auto all = [&]<typename D>(const D& on) {
    std::vector<std::int32_t> numbers;
    const auto add = [&](const Tensor<std::int32_t, D>& part) {
      for (const std::int32_t value : part.to_host()) numbers.push_back(value);
    };
    const auto tokens = random_ids<D>({3, 71}, 1, 0, 256);
    const auto places = random_ids<D>({3, 71}, 2, 0, 4);  // many breaks between documents
    const auto chosen = random_ids<D>({3, 71}, 3, 0, 2);
    const Tensor<std::int32_t, D> positions(on, {3, 70});
    fill_positions(on, 3, 70, 9, positions.data());
    add(positions);
    window_positions(on, places.narrow_last(0, 70).rows(), places.data(), positions.data());
    add(positions);
    for (const Index depth : {0, 1, 3}) {
      const Tensor<std::int32_t, D> labels(on, {3, 70 - depth});
      for (const std::int32_t* const documents :
           std::initializer_list<const std::int32_t*>{nullptr, places.data()}) {
        for (const std::int32_t* const counts :
             std::initializer_list<const std::int32_t*>{nullptr, chosen.data()}) {
          shift_labels(on, tokens.rows(), depth, tokens.data(), documents, counts, labels.data());
          add(labels);
        }
      }
    }
    return numbers;
  };
  CHECK(all(device<Cuda>()) == all(device<Cpu>()));
}

TEST_SUITE_END();
