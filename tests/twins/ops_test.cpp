// Op by op: element-wise ones, norms, rotation, attention, the embedding, the router.

#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/attention.hpp>
#include <mtpx/ops/embedding.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/rms_norm.hpp>
#include <mtpx/ops/rope.hpp>
#include <mtpx/ops/router.hpp>
#include <mtpx/ops/swiglu.hpp>

#include "twins/twins.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("twins: ops");

namespace {

template <typename T, typename D>
auto random_activation(Shape shape, std::uint64_t stream, double scale = 1) {
  return activation(random_tensor<T, D>(shape, stream, scale));
}

/// Positions within documents of `length` tokens; none at all for length 0.
template <typename D>
Tensor<std::int32_t, D> documents(Index batch, Index time, Index length) {
  if (length == 0) return {};
  std::vector<std::int32_t> positions;
  for (Index i = 0; i < batch * time; ++i) positions.push_back(static_cast<std::int32_t>(i % time % length));
  return tensor<std::int32_t, D>({batch, time}, positions);
}

template <typename A, typename D>
RopeTable<A, D> table(Index positions, Index rope) {
  const auto part = [&](std::uint64_t stream) { return random_tensor<A, D>({positions, rope / 2}, stream); };
  return {part(50), part(51)};
}

/// Scores of 8 different values: ties everywhere.
template <typename A, typename D>
Tensor<A, D> coarse_scores(Shape shape, std::uint64_t stream) {
  std::vector<A> scores;
  for (const std::int32_t level : random_ids<Cpu>(shape, stream, 1, 9).to_host())
    scores.push_back(static_cast<A>(level) / 8);
  return tensor<A, D>(shape, scores);
}

}  // namespace

TEST_CASE("twins: add, swiglu") {
  TwinErrors sum("add", one_rounding), gated("swiglu", one_rounding);
  for (const Shape& shape : {Shape{1, 1, 1}, Shape{3, 7, 33}, Shape{2, 65, 384}}) {
    CAPTURE(shape.str());
    sum.check([&]<typename T, typename D>() {
      return Card(
          {"a", "b"}, [](const auto& a, const auto& b) { return add(a, b); },
          random_activation<T, D>(shape, 1), random_activation<T, D>(shape, 2));
    });
    gated.check([&]<typename T, typename D>() {
      return Card(
          {"gate", "up"}, [](const auto& gate, const auto& up) { return swiglu(gate, up); },
          random_activation<T, D>(shape, 1, 4), random_activation<T, D>(shape, 2));
    });
  }
}

TEST_CASE("twins: narrow, concat, take_front") {
  TwinErrors errors("layout", 0);  // copies
  for (const Index width : {7, 64}) {
    errors.check([&]<typename T, typename D>() {
      return Card(
          {"a", "b"},
          [&](const auto& a, const auto& b) {
            return take_front(concat(narrow(a, width / 2, width / 2), b), 30);
          },
          random_activation<T, D>({3, 40, width}, 1), random_activation<T, D>({3, 40, 24}, 2));
    });
  }
}

TEST_CASE("twins: rms_norm, add_rms_norm") {
  TwinErrors errors("rms_norm", one_rounding), fused("add_rms_norm", one_rounding);
  for (const Index width : {33, 256, 384, 1024}) {
    for (const Index rows : {1, 70}) {
      CAPTURE(width);
      CAPTURE(rows);
      const auto norm = [&]<typename T, typename D>() {
        return Card(
            {"x", "gain"},
            [](const auto& x, const auto& gain) { return rms_norm(x, gain, static_cast<acc_t<T>>(1e-6)); },
            random_activation<T, D>({rows, width}, 1),
            weight(random_tensor<acc_t<T>, D>({width}, 2, 0.5, 1)));
      };
      errors.check(norm);
      errors.check([&]<typename T, typename D>() {  // the latent's norm reads a part of each row
        return norm.template operator()<T, D>().template strided<0>();
      });
      fused.check([&]<typename T, typename D>() {
        return Card(
            {"x", "f", "gain"},
            [](const auto& x, const auto& f, const auto& gain) {
              const auto [total, y] = add_rms_norm(x, f, gain, static_cast<acc_t<T>>(1e-6));
              return concat(total, y);
            },
            random_activation<T, D>({rows, width}, 1), random_activation<T, D>({rows, width}, 3),
            weight(random_tensor<acc_t<T>, D>({width}, 2, 0.5, 1)));
      });
    }
  }
}

TEST_CASE("twins: rope") {
  TwinErrors errors("rope", one_rounding);
  struct Sizes {
    Index heads, width, rope;
  };
  for (const Sizes& s : {Sizes{4, 192, 64}, Sizes{1, 64, 64}, Sizes{3, 7, 4}}) {
    const auto make = [&]<typename T, typename D>() {
      return Card(
          {"x"},
          [s, at = random_ids<D>({2, 65}, 5, 0, 100),
           angles = table<acc_t<T>, D>(100, s.rope)](const auto& x) { return rope(x, s.heads, at, angles); },
          random_activation<T, D>({2, 65, s.heads * s.width}, 1));
    };
    errors.check(make);
    errors.check(
        [&]<typename T, typename D>() { return make.template operator()<T, D>().template strided<0>(); });
  }
}

TEST_CASE("twins: attention") {
  TwinErrors errors("attention", inner_rounding);
  struct Sizes {
    AttentionShape s;
    Index document;
  };
  for (const Sizes& sizes : {Sizes{{1, 1, 2, 128, 64, 128}, 0}, Sizes{{2, 64, 2, 128, 64, 128}, 0},
                             Sizes{{2, 65, 2, 128, 64, 128}, 20}, Sizes{{1, 128, 4, 128, 64, 128}, 0},
                             Sizes{{1, 200, 1, 128, 64, 128}, 64}, Sizes{{2, 300, 2, 128, 64, 128}, 0},
                             Sizes{{1, 300, 3, 128, 64, 128}, 170}, Sizes{{1, 300, 1, 128, 64, 128}, 2},
                             Sizes{{2, 150, 4, 32, 16, 32}, 0}, Sizes{{2, 150, 4, 32, 16, 32}, 70},
                             Sizes{{2, 70, 2, 5, 2, 9}, 40}}) {
    const AttentionShape& s = sizes.s;
    CAPTURE(s.time);
    CAPTURE(s.nope);
    CAPTURE(sizes.document);
    errors.check([&]<typename T, typename D>() {
      const double scale = 2 / std::sqrt(static_cast<double>(s.nope + s.rope));
      return Card(
          {"q", "kv", "k_rope"},
          [s, scale, at = documents<D>(s.batch, s.time, sizes.document)](const auto& q, const auto& kv,
                                                                         const auto& k_rope) {
            return attention(q, kv, k_rope, s, static_cast<acc_t<T>>(scale), at);
          },
          random_activation<T, D>({s.batch, s.time, s.heads * (s.nope + s.rope)}, 1, 2),
          random_activation<T, D>({s.batch, s.time, s.heads * (s.nope + s.v)}, 2),
          random_activation<T, D>({s.batch, s.time, s.rope}, 3));
    });
  }
}

TEST_CASE("twins: embedding, ids that come again and again") {
  TwinErrors errors("embedding", float_bound);  // a copy, and sums in float
  for (const Index width : {5, 256, 384}) {
    for (const Index vocab : {1, 40, 1000}) {
      CAPTURE(width);
      CAPTURE(vocab);
      errors.check([&]<typename T, typename D>() {
        return Card(
            {"table"},
            [ids = random_ids<D>({2, 150}, 3, 0, vocab)](const auto& t) {
              return embedding(*t.tape(), ids, t);
            },
            weight(random_tensor<T, D>({vocab, width}, 1)));
      });
    }
  }
}

TEST_CASE("twins: sigmoid, balance_loss") {
  TwinErrors errors("sigmoid", 0), balance("balance_loss", 0);
  errors.check_float([&]<typename T, typename D>() {
    return Card(
        {"x"}, [](const auto& x) { return sigmoid(x); }, random_activation<T, D>({300, 64}, 1, 6));
  });
  for (const Index experts : {4, 64, 256}) {
    balance.check_float([&]<typename T, typename D>() {
      return Card(
          {"scores"}, [](const auto& x) { return balance_loss(x, 4, T(0.25F)); },
          activation(random_tensor<T, D>({3, 100, experts}, 1, 0.4, 0.5)));
    });
  }
}

TEST_CASE("twins: route, with ties and NaN") {
  TwinErrors errors("route", 0);
  for (const Routing& r : {Routing{8, 2}, Routing{8, 8}, Routing{64, 6, 8, 3, true, 2.5},
                           Routing{256, 8, 8, 4, true, 2.5}, Routing{12, 5, 4, 2, false, 2.5}, Routing{7, 3},
                           Routing{160, 6, 8, 3, false, 16, ScoringFunc::softmax},
                           Routing{12, 3, 4, 2, false, 1, ScoringFunc::softmax}}) {
    CAPTURE(r.n_experts);
    CAPTURE(r.top_k);
    const auto bias_of = [&r]<typename T, typename D>() {
      return r.scoring == ScoringFunc::sigmoid ? random_tensor<T, D>({r.n_experts}, 2, 0.25) : Tensor<T, D>();
    };
    const auto ids = [&]<typename D>(const D&, const Numbers& changed) {
      std::vector<float> scores = coarse_scores<float, Cpu>({300, r.n_experts}, 1).to_host();
      for (std::size_t i = 0; i < changed.size(); ++i) scores[7 * i] = static_cast<float>(changed[i]);
      Tape tape(Mode::inference);
      return route(tape.constant(tensor<float, D>({300, r.n_experts}, scores)),
                   bias_of.template operator()<float, D>(), r)
          .ids.to_host();
    };
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    constexpr double infinity = std::numeric_limits<double>::infinity();
    for (const Numbers& changed : {Numbers{}, Numbers{nan, nan, infinity, -infinity, nan}, Numbers(100, nan)})
      CHECK(ids(device<Cuda>(), changed) == ids(device<Cpu>(), changed));
    errors.check_float([&]<typename T, typename D>() {
      return Card(
          {"scores"},
          [r, bias = bias_of.template operator()<T, D>()](const auto& s) {
            return route(s, bias, r).weights;
          },
          activation(coarse_scores<T, D>({300, r.n_experts}, 1)));
    });
  }
}

TEST_CASE("twins: update_bias") {
  for (const Index experts : {4, 64, 256}) {
    const auto moved = [&]<typename D>(const D& on) {
      const auto load = Tensor<float, D>::from(on, {experts}, [&] {
        std::vector<float> counts;
        for (const auto id : random_ids<Cpu>({experts}, 1, 0, 5).to_host())
          counts.push_back(static_cast<float>(id));
        return counts;
      }());
      const auto bias = random_tensor<float, D>({experts}, 2);
      update_bias(on, experts, 0.125F, nullptr, load.data(), bias.data());
      const Numbers first = host(bias);
      CHECK(host(load) == Numbers(static_cast<std::size_t>(experts), 0.0));
      for (const double scale : {0.5, std::numeric_limits<double>::quiet_NaN()}) {
        const auto step = tensor<double, D>({1}, {scale});
        load.assign(std::vector<float>(static_cast<std::size_t>(experts), 1.0F));
        load.slice_front(0, 1).assign(std::vector<float>{9.0F});
        update_bias(on, experts, 0.125F, step.data(), load.data(), bias.data());
      }
      Numbers all = host(bias);
      all.insert(all.end(), first.begin(), first.end());
      return all;
    };
    check_bits(moved(device<Cuda>()), moved(device<Cpu>()));
  }
}

TEST_SUITE_END();
