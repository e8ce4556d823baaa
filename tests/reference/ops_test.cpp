// Every op on the reference, in double, and on the host, in double and in float: values and all gradients.
// What a formula of kernels/eigen/ says is checked against finite differences here and there (tests/ops);
// here it is checked that the kernels people run compute it.

#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/attention.hpp>
#include <mtpx/ops/embedding.hpp>
#include <mtpx/ops/experts.hpp>
#include <mtpx/ops/latent_attention.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/linear.hpp>
#include <mtpx/ops/linear_cross_entropy.hpp>
#include <mtpx/ops/linear_distillation.hpp>
#include <mtpx/ops/rms_norm.hpp>
#include <mtpx/ops/rope.hpp>
#include <mtpx/ops/router.hpp>
#include <mtpx/ops/swiglu.hpp>
#include <mtpx/reference.hpp>

#include "support/card.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("reference: ops");

namespace {

template <typename T, typename D>
auto random_activation(Shape shape, std::uint64_t stream, double scale = 1, double shift = 0) {
  return activation(random_tensor<T, D>(shape, stream, scale, shift));
}

/// make.operator()<T, D>() is the card.
template <typename Make>
void check_reference(const Make& make) {
  {
    const AllDigits digits;
    check_same(make.template operator()<double, Cpu>(), make.template operator()<double, Reference>(), 1e-12);
  }
  // Operands that float holds exactly.
  check_same(make.template operator()<float, Cpu>(), make.template operator()<double, Reference>(),
             float_bound);
}

/// K different experts a token.
template <typename D>
Tensor<std::int32_t, D> choose(ExpertsShape s) {
  Ints ids;
  const Ints starts = random_ids<D>({s.tokens}, 7, 0, s.experts).to_host();
  for (Index n = 0; n < s.tokens; ++n) {
    for (Index k = 0; k < s.top_k; ++k)
      ids.push_back(static_cast<std::int32_t>((nth(starts, n) + k * (s.experts - 1)) % s.experts));
  }
  return tensor<std::int32_t, D>({s.tokens, s.top_k}, ids);
}

/// Positions within documents of `length` tokens; none at all for length 0.
template <typename D>
Tensor<std::int32_t, D> documents(Index batch, Index time, Index length) {
  if (length == 0) return {};
  Ints positions;
  for (Index i = 0; i < batch * time; ++i) positions.push_back(static_cast<std::int32_t>(i % time % length));
  return tensor<std::int32_t, D>({batch, time}, positions);
}

}  // namespace

TEST_CASE("reference: add, weighted_sum, narrow, concat, take_front") {
  check_reference([]<typename T, typename D>() {
    return Card(
        {"a", "b"},
        [](const auto& a, const auto& b) { return take_front(concat(narrow(add(a, b), 2, 3), b), 4); },
        random_activation<T, D>({2, 5, 7}, 1), random_activation<T, D>({2, 5, 7}, 2));
  });
  check_reference([]<typename T, typename D>() {
    return Card(
        {"x", "y"},
        [](const auto& x, const auto& y) {
          return weighted_sum<T, D>({x, y, x}, {T(0.5), T(-2), T(0.25)});
        },
        random_activation<T, D>({1}, 1), random_activation<T, D>({1}, 2));
  });
}

TEST_CASE("reference: linear") {
  for (const Shape& x : {Shape{1, 1}, Shape{2, 3, 5}, Shape{66, 33}}) {
    const auto make = [&]<typename T, typename D>() {
      return Card(
          {"x", "w"}, [](const auto& v, const auto& w) { return linear(v, w); },
          random_activation<T, D>(x, 1), weight(random_tensor<T, D>({17, x.width()}, 2)));
    };
    check_reference(make);
    check_reference(
        [&]<typename T, typename D>() { return make.template operator()<T, D>().template strided<0>(); });
  }
}

TEST_CASE("reference: rms_norm, add_rms_norm") {
  for (const Shape& shape : {Shape{1, 9}, Shape{2, 3, 5}, Shape{70, 33}}) {
    const auto norm = [&]<typename T, typename D>() {
      return Card(
          {"x", "gain"}, [](const auto& x, const auto& gain) { return rms_norm(x, gain, T(1e-3F)); },
          random_activation<T, D>(shape, 1), weight(random_tensor<T, D>({shape.width()}, 2, 0.5, 1)));
    };
    check_reference(norm);
    check_reference(
        [&]<typename T, typename D>() { return norm.template operator()<T, D>().template strided<0>(); });
    check_reference([&]<typename T, typename D>() {
      return Card(
          {"x", "f", "gain"},
          [](const auto& x, const auto& f, const auto& gain) {
            const auto [total, y] = add_rms_norm(x, f, gain, T(1e-3F));
            return concat(total, y);
          },
          random_activation<T, D>(shape, 1), random_activation<T, D>(shape, 3),
          weight(random_tensor<T, D>({shape.width()}, 2, 0.5, 1)));
    });
  }
}

TEST_CASE("reference: swiglu, sigmoid") {
  check_reference([]<typename T, typename D>() {
    return Card(
        {"gate", "up"}, [](const auto& gate, const auto& up) { return swiglu(gate, up); },
        random_activation<T, D>({3, 33}, 1, 4), random_activation<T, D>({3, 33}, 2));
  });
  check_reference([]<typename T, typename D>() {
    return Card(
        {"x"}, [](const auto& x) { return sigmoid(x); }, random_activation<T, D>({3, 33}, 1, 6));
  });
}

TEST_CASE("reference: rope") {
  struct Sizes {
    Index heads, width, rope;
  };
  for (const Sizes& s : {Sizes{1, 4, 4}, Sizes{3, 7, 4}}) {
    check_reference([&]<typename T, typename D>() {
      const RopeTable<T, D> table{random_tensor<T, D>({100, s.rope / 2}, 50),
                                  random_tensor<T, D>({100, s.rope / 2}, 51)};
      return Card(
          {"x"},
          [s, table, at = random_ids<D>({2, 9}, 5, 0, 100)](const auto& x) {
            return rope(x, s.heads, at, table);
          },
          random_activation<T, D>({2, 9, s.heads * s.width}, 1));
    });
  }
}

TEST_CASE("reference: attention") {
  struct Sizes {
    AttentionShape s;
    Index document;
  };
  for (const Sizes& sizes :
       {Sizes{{1, 1, 1, 1, 2, 1}, 0}, Sizes{{2, 7, 3, 4, 4, 9}, 0}, Sizes{{2, 70, 2, 5, 2, 9}, 40},
        Sizes{{2, 9, 2, 5, 0, 3}, 2}, Sizes{{2, 9, 2, 0, 4, 3}, 0}}) {
    const AttentionShape& s = sizes.s;
    CAPTURE(s.time);
    CAPTURE(sizes.document);
    check_reference([&]<typename T, typename D>() {
      return Card(
          {"q", "kv", "k_rope"},
          [s, at = documents<D>(s.batch, s.time, sizes.document)](const auto& q, const auto& kv,
                                                                  const auto& k_rope) {
            return attention(q, kv, k_rope, s, T(0.7F), at);
          },
          random_activation<T, D>({s.batch, s.time, s.heads * (s.nope + s.rope)}, 1),
          random_activation<T, D>({s.batch, s.time, s.heads * (s.nope + s.v)}, 2),
          random_activation<T, D>({s.batch, s.time, s.rope}, 3));
    });
  }
}

TEST_CASE("reference: embedding") {
  check_reference([]<typename T, typename D>() {
    return Card(
        {"table"},
        [ids = random_ids<D>({2, 30}, 3, 0, 9)](const auto& table) {
          return embedding(*table.tape(), ids, table);
        },
        weight(random_tensor<T, D>({9, 7}, 1)));
  });
}

TEST_CASE("reference: route, balance_loss") {
  for (const Routing& r : {Routing{1, 1}, Routing{8, 2}, Routing{12, 5, 4, 2, false, 2.5},
                           Routing{16, 4, 8, 3, true, 2.5}, Routing{6, 2, 6, 3}}) {
    CAPTURE(r.n_experts);
    // Scores of 8 different values: ties everywhere.
    const Ints levels = random_ids<Cpu>({30, r.n_experts}, 1, 1, 9).to_host();
    const auto make = [&]<typename T, typename D>() {
      std::vector<T> scores;
      for (const std::int32_t level : levels) scores.push_back(static_cast<T>(level) / 8);
      return Card(
          {"scores"},
          [r, bias = random_tensor<T, D>({r.n_experts}, 2, 0.25)](const auto& s) {
            return route(s, bias, r).weights;
          },
          activation(tensor<T, D>({30, r.n_experts}, scores)));
    };
    check_reference(make);
    const auto ids = [&]<typename D>(const D&) {
      Tape tape(Mode::inference);
      const auto card = make.template operator()<double, D>();
      return route(tape.constant(card.template operand<0>().value()),
                   random_tensor<double, D>({r.n_experts}, 2, 0.25), r)
          .ids.to_host();
    };
    CHECK(ids(Cpu(1)) == ids(Reference()));
  }
  check_reference([]<typename T, typename D>() {
    return Card(
        {"scores"}, [](const auto& x) { return balance_loss(x, 4, T(0.25F)); },
        random_activation<T, D>({3, 20, 16}, 1, 0.4, 0.5));
  });
}

TEST_CASE("reference: update_bias") {
  for (const double scale : {0.5, std::numeric_limits<double>::quiet_NaN()}) {
    const auto moved = [&]<typename D>(const D& on) {
      const auto load = tensor<double, D>({4}, {10, 30, 20, 20});
      const auto bias = random_tensor<double, D>({4}, 2);
      update_bias(on, 4, 0.125, &scale, load.data(), bias.data());
      CHECK(host(load) == Numbers(4, 0.0));
      return host(bias);
    };
    check_bits(moved(device<Reference>()), moved(device<Cpu>()));
  }
}

TEST_CASE("reference: experts") {
  for (const ExpertsShape& s : {ExpertsShape{1, 1, 1, 1, 1}, ExpertsShape{5, 3, 2, 4, 2},
                                ExpertsShape{40, 9, 10, 6, 3}, ExpertsShape{2, 3, 4, 9, 1}}) {
    CAPTURE(s.tokens);
    const auto make = [&]<typename T, typename D>() {
      return Card(
          {"x", "weights", "gate", "up", "down"},
          [plan = plan_experts(choose<D>(s), s.experts, Tensor<T, D>())](
              const auto& x, const auto& weights, const auto& gate, const auto& up, const auto& down) {
            return experts(x, weights, plan, gate, up, down);
          },
          random_activation<T, D>({s.tokens, s.width}, 1), random_activation<T, D>({s.tokens, s.top_k}, 2),
          weight(random_tensor<T, D>({s.experts, s.inner, s.width}, 3)),
          weight(random_tensor<T, D>({s.experts, s.inner, s.width}, 4)),
          weight(random_tensor<T, D>({s.experts, s.width, s.inner}, 5)));
    };
    check_reference(make);
    check_reference(
        [&]<typename T, typename D>() { return make.template operator()<T, D>().template strided<0>(); });
    const auto plan = [&]<typename D>(const D&) {
      const Tensor<double, D> load = Tensor<double, D>::zeros(device<D>(), {s.experts});
      const auto made = plan_experts(choose<D>(s), s.experts, load);
      return std::tuple(made.offsets.to_host(), made.slot.to_host(), made.place.to_host(), load.to_host());
    };
    CHECK(plan(Reference()) == plan(Cpu(1)));
  }
}

TEST_CASE("reference: linear_cross_entropy") {
  for (const Index fixed_divisor : {0, 50}) {
    for (const std::int32_t lowest : {-1, 0}) {
      const auto make = [&]<typename T, typename D>() {
        return Card(
            {"x", "w"},
            [=, labels = random_ids<D>({21}, 3, lowest, 33)](const auto& x, const auto& w) {
              return linear_cross_entropy(x, w, labels, fixed_divisor).loss;
            },
            random_activation<T, D>({3, 7, 5}, 1), weight(random_tensor<T, D>({33, 5}, 2)));
      };
      check_reference(make);
      check_reference(
          [&]<typename T, typename D>() { return make.template operator()<T, D>().template strided<0>(); });
    }
  }
  Tape tape(Mode::inference);
  CHECK_THROWS_WITH_AS(linear_cross_entropy(tape.constant(random_tensor<double, Reference>({2, 3}, 1)),
                                            weight(random_tensor<double, Reference>({5, 3}, 1)),
                                            tensor<std::int32_t, Reference>({2}, {4, 5})),
                       "[linear_cross_entropy] token id 5 at row 0, column 1 is outside the vocabulary of 5",
                       NumericError);
}

TEST_CASE("reference: linear_distillation") {
  for (const auto divergence : {Divergence::cross_entropy, Divergence::kl, Divergence::total_variation}) {
    check_reference([&]<typename T, typename D>() {
      const Teacher<T, D> teacher{random_tensor<T, D>({21, 4}, 4), random_tensor<T, D>({33, 4}, 5)};
      return Card(
          {"x", "w"},
          [=, labels = random_ids<D>({21}, 3, -1, 33)](const auto& x, const auto& w) {
            return linear_distillation(x, w, teacher, labels, divergence, 0.75).loss;
          },
          random_activation<T, D>({3, 7, 5}, 1), weight(random_tensor<T, D>({33, 5}, 2)));
    });
  }
}

TEST_CASE("reference: latent_attention, rows of two sequences in any order, of a tree, and prompts") {
  const AttentionShape s{1, 5, 2, 3, 2, 4};
  bool tree = false;
  const auto decoded = [&]<typename T, typename D>(T, const D& on) {
    const LatentCache<T, D> cache{random_tensor<T, D>({2, 12, 7}, 5)};
    DecodeRows<D> rows{tensor<std::int32_t, D>({5}, {1, 0, 1, 0, 1}),
                       tensor<std::int32_t, D>({5}, {6, 0, 7, 8, 8})};
    if (tree) {
      rows = {
          tensor<std::int32_t, D>({5}, {1, 1, 1, 0, 1}), tensor<std::int32_t, D>({5}, {6, 6, 7, 8, 8}),
          tensor<std::int32_t, D>({5}, {6, 9, 10, 8, 11}),
          tensor<std::int32_t, D>({5, 4}, {6, 6, 0, 0, 6, 9, 0, 0, 6, 9, 10, 0, 9, 0, 0, 0, 6, 9, 10, 11})};
    }
    Tape tape(Mode::inference);
    const auto x = [&](Index width, std::uint64_t stream) {
      return tape.constant(random_tensor<T, D>({1, 5, width}, stream));
    };
    Numbers all = host(latent_attention(x(10, 1), x(5, 2), x(2, 3), weight(random_tensor<T, D>({14, 5}, 4)),
                                        s, T(0.7F), rows, cache)
                           .value());
    const Numbers entries = host(cache.entries);
    all.insert(all.end(), entries.begin(), entries.end());
    CHECK(on.pool().bytes_in_use() > 0);
    return all;
  };
  for (const bool with_tree : {false, true}) {
    tree = with_tree;
    check_close(decoded(0.0F, device<Cpu>()), decoded(0.0, device<Reference>()), float_bound);
    const AllDigits digits;
    check_close(decoded(0.0, device<Cpu>()), decoded(0.0, device<Reference>()), 1e-12);
  }
  const auto read = [&]<typename T, typename D>(T, const D&) {
    const LatentCache<T, D> cache{random_tensor<T, D>({2, 12, 7}, 5)};
    const DecodeRows<D> rows{tensor<std::int32_t, D>({5}, {1, 1, 1, 1, 1}),
                             tensor<std::int32_t, D>({5}, {6, 7, 8, 9, 10}),
                             {},
                             {},
                             {1, 6}};
    Tape tape(Mode::inference);
    const auto x = [&](Index width, std::uint64_t stream) {
      return tape.constant(random_tensor<T, D>({1, 5, width}, stream));
    };
    return host(prompt_attention(x(10, 1), x(5, 2), x(2, 3), weight(random_tensor<T, D>({14, 5}, 4)), s,
                                 T(0.7F), rows, cache)
                    .value());
  };
  check_close(read(0.0F, device<Cpu>()), read(0.0, device<Reference>()), float_bound);
}

TEST_SUITE_END();
