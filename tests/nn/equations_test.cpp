// Attention, router and output head against DeepSeek-V3's equations, computed another way.

#include <mtpx/nn/moe.hpp>
#include <mtpx/ops/linear_cross_entropy.hpp>

#include <mtpx/nn/mla.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

#include <numeric>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("equations");

namespace {

Mla<double, Device> random_mla(Index q_lora_rank) {
  Mla<double, Device> mla(device(), {8, 3, q_lora_rank, 7, 3, 4, 5, 0.4});
  std::uint64_t stream = 40;
  for_each_parameter(mla, [&](const std::string&, auto& parameter) {
    const bool gain = parameter.shape().rank() == 1;
    parameter.value().assign(
        random_tensor<double>(parameter.shape(), ++stream, gain ? 0.5 : 0.7, gain).to_host());
  });
  return mla;
}

/// All ways to choose `count` of 0 .. n - 1, in lexicographic order.
std::vector<std::vector<Index>> subsets(Index n, Index count) {
  std::vector<std::vector<Index>> all;
  for (Index bits = 0; bits < Index{1} << n; ++bits) {
    std::vector<Index> one;
    for (Index i = 0; i < n; ++i) {
      if ((bits >> i & 1) != 0) one.push_back(i);
    }
    if (static_cast<Index>(one.size()) == count) all.push_back(one);
  }
  return all;
}

/// The subset with the largest sum of values.
std::vector<Index> best_subset(const std::vector<std::vector<Index>>& all, const Numbers& values) {
  const auto sum = [&](const std::vector<Index>& one) {
    double total = 0;
    for (const Index i : one) total += nth(values, i);
    return total;
  };
  return *std::max_element(all.begin(), all.end(),
                           [&](const auto& a, const auto& b) { return sum(a) < sum(b); });
}

}  // namespace

TEST_CASE("scores depend on differences of positions only") {
  const RopeScaling scaling{4, 16, 2, 0.25, 1, 0.7};
  const auto table = make_rope_table<double>(device(), 600, 4, 100, scaling);
  for (const Index q_lora_rank : {0, 6}) {
    const auto mla = random_mla(q_lora_rank);
    Tape tape(Mode::inference);
    const auto x = tape.constant(random_tensor<double>({2, 7, 8}, 1));
    const Numbers want = host(mla(x, table, positions(2, 7, 0), {}).value());
    for (const Index shift : {1, 2, 500}) {
      check_close(host(mla(x, table, positions(2, 7, shift), {}).value()), want, 1e-12,
                  cat("all by ", shift));
    }
    // Positions are not ignored: moved apart, scores change.
    const Ids other = tensor<std::int32_t>({2, 7}, {0, 1, 2, 3, 4, 5, 9, 0, 1, 2, 3, 4, 5, 9});
    CHECK(relative_error(host(mla(x, table, other, {}).value()), want) > 1e-4);
  }
}

TEST_CASE("adjacent pairs and half-rotated vectors give the same scores") {
  constexpr Index width = 8, half = width / 2, count = 6;
  const auto table = make_rope_table<double>(device(), count, width, 100, {});
  const auto q = random_tensor<double>({1, count, width}, 1);
  const auto k = random_tensor<double>({1, count, width}, 2);
  Tape tape(Mode::inference);
  const auto adjacent = [&](const Tensor<double, Device>& x) {
    return host(rope(tape.constant(x), 1, positions(1, count, 0), table).value());
  };
  // De-interleave, then x cos + rotate_half(x) sin, as the other published implementation does.
  const auto halves = [&](const Tensor<double, Device>& x) {
    const Numbers in = host(x);
    Numbers out = in;
    for (Index r = 0; r < count; ++r) {
      for (Index j = 0; j < half; ++j) {
        const double angle = static_cast<double>(r) *
                             std::pow(100.0, -2.0 * static_cast<double>(j) / static_cast<double>(width));
        const double a = nth(in, r * width + 2 * j);
        const double b = nth(in, r * width + 2 * j + 1);
        nth(out, r * width + j) = a * std::cos(angle) - b * std::sin(angle);
        nth(out, r * width + half + j) = b * std::cos(angle) + a * std::sin(angle);
      }
    }
    return out;
  };
  const auto scores = [](const Numbers& a, const Numbers& b) {
    return reference::linear(a, b, width, count);
  };
  check_close(scores(adjacent(q), adjacent(k)), scores(halves(q), halves(k)), 1e-13);
}

TEST_CASE("the YaRN table of DeepSeek-V3 and its scale of scores") {
  const RopeScaling scaling{40, 4096, 32, 1, 1, 1};
  const auto f = rope_frequencies(64, 10000, scaling);
  const std::vector<std::pair<std::size_t, double>> golden{
      {0, 1.0},     {5, 0.2371373706},   {10, 0.0562341325},  {11, 0.0390069266},
      {16, 0.0055}, {22, 1.77827941e-4}, {23, 3.33380358e-5}, {31, 3.33380358e-6}};
  REQUIRE(f.size() == 32);
  for (const auto& [i, want] : golden) CHECK(f[i] == doctest::Approx(want).epsilon(3e-9));
  CHECK(attention_scale(192, scaling) == doctest::Approx(0.1352338).epsilon(3e-7));
  CHECK(attention_scale(192, {}) == doctest::Approx(0.0721688).epsilon(3e-7));
  CHECK(rope_magnitude(scaling) == 1.0);
}

TEST_CASE("attention absorbed into the latent = attention on whole keys and values") {
  constexpr Index time = 70;  // more than one tile of the cache
  const auto table = make_rope_table<double>(device(), time, 4, 100, {});
  for (const Index q_lora_rank : {0, 6}) {
    const auto mla = random_mla(q_lora_rank);
    const auto x = random_tensor<double>({1, time, 8}, 1);
    Tape tape(Mode::inference);
    const Numbers want = host(mla(tape.constant(x), table, positions(1, time, 0), {}).value());
    for (const Index step : {1, 7, 70}) {  // rows a pass
      const LatentCache<double, Device> cache{Tensor<double, Device>::zeros(device(), {1, time, 11})};
      Numbers got;
      for (Index begin = 0; begin < time; begin += step) {
        const auto rows = x.reshape({time, 8}).slice_front(begin, begin + step).reshape({1, step, 8});
        const Numbers y = host(mla.decode(tape.constant(rows), table,
                                          {Ids::zeros(device(), {step}), positions(1, step, begin)}, cache)
                                   .value());
        got.insert(got.end(), y.begin(), y.end());
      }
      check_close(got, want, 1e-12, cat(step, " rows a pass"));
    }
  }
}

TEST_CASE("the router against all possible choices, with negative biases") {
  // Negative sums s + b: an expert of a group that lost, counted as 0 instead of -inf, would win.
  const Routing r{8, 3, 4, 2, true, 2.5};
  constexpr Index tokens = 40;
  Tape tape;
  const auto scores = sigmoid(tape.constant(random_tensor<double>({1, tokens, 8}, 1, 2.0)));
  for (const double shift : {0.0, -2.0}) {
    const auto bias = random_tensor<double>({8}, 2, 0.5, shift);
    const auto got = route(scores, bias, r);
    const Numbers s = host(scores.value()), weights = host(got.weights.value());
    const Ints all_ids = got.ids.to_host();
    int negative = 0;
    for (Index t = 0; t < tokens; ++t) {
      const Numbers token(s.begin() + t * 8, s.begin() + (t + 1) * 8);
      Numbers sum = token, worth;
      for (std::size_t e = 0; e < 8; ++e) sum[e] += host(bias)[e];
      for (std::size_t g = 0; g < 4; ++g) worth.push_back(sum[2 * g] + sum[2 * g + 1]);  // its two best
      const auto groups = best_subset(subsets(4, 2), worth);
      std::vector<std::vector<Index>> allowed;
      for (const auto& one : subsets(8, 3)) {
        if (std::all_of(one.begin(), one.end(),
                        [&](Index e) { return std::count(groups.begin(), groups.end(), e / 2) > 0; }))
          allowed.push_back(one);
      }
      const auto chosen = best_subset(allowed, sum);
      std::vector<Index> ids(all_ids.begin() + t * 3, all_ids.begin() + t * 3 + 3);
      double total = 0;
      for (const Index e : chosen) total += nth(token, e);
      for (Index k = 0; k < 3; ++k) {
        const double weight = 2.5 * nth(token, nth(ids, k)) / total;  // the bias selects only
        CHECK(nth(weights, t * 3 + k) == doctest::Approx(weight).epsilon(1e-14));
        negative += nth(sum, nth(ids, k)) < 0 ? 1 : 0;
      }
      std::sort(ids.begin(), ids.end());
      CHECK(ids == chosen);
    }
    CHECK((negative > 0) == (shift < 0));
  }
}

TEST_CASE("a group is worth its two best experts, not its best one and not all") {
  const auto scores = tensor<double>({1, 1, 9}, {.9, .1, .1, .6, .6, .0, .5, .5, .49});
  Tape tape;
  const auto got = route(tape.constant(scores), Tensor<double, Device>::zeros(device(), {9}),
                         Routing{9, 2, 3, 1, true, 1.0});
  CHECK(got.ids.to_host() == Ints{3, 4});
}

TEST_CASE("bias update by sign(mean - load), 0 where they are equal") {
  Moe<double, Device> moe(device(), {4, 3, 0, {4, 2, 1, 1, true, 1.0}, 0});
  moe.gate.e_score_correction_bias->value.assign(Numbers{1, 2, -3, 0});
  moe.load.assign(Numbers{4, 2, 0, 2});
  moe.update_bias(0.125);
  CHECK(host(moe.gate.e_score_correction_bias->value) == Numbers{1 - 0.125, 2, -3 + 0.125, 0});
  CHECK(host(moe.load) == Numbers{0, 0, 0, 0});
  moe.update_bias(0.125);  // nothing happened since: nothing moves
  CHECK(host(moe.gate.e_score_correction_bias->value) == Numbers{1 - 0.125, 2, -3 + 0.125, 0});
}

TEST_CASE("perfect balance gives sum f P = 1, the balance loss its alpha") {
  // Token t prefers experts t and t + 1: every expert is chosen equally often, with equal scores.
  Numbers scores;
  for (Index sequence = 0; sequence < 2; ++sequence) {
    for (Index t = 0; t < 8; ++t) {
      const Numbers pattern{0.9, 0.8, 0.3, 0.1};
      for (Index e = 0; e < 4; ++e) scores.push_back(nth(pattern, (e - t + 8) % 4));
    }
  }
  Tape tape;
  const auto value = [&](const Numbers& s, double alpha) {
    return host(balance_loss(tape.constant(tensor<double>({2, 8, 4}, s)), 2, alpha).value())[0];
  };
  CHECK(value(scores, 1.0) == doctest::Approx(1).epsilon(1e-15));
  CHECK(value(scores, 0.25) == doctest::Approx(0.25).epsilon(1e-15));
  Numbers uneven = scores;
  for (std::size_t i = 0; i < uneven.size(); i += 4) uneven[i] = 0.95;
  CHECK(value(uneven, 1.0) > 1.05);
}

TEST_CASE("the head and its losses in sequence = one sum over all depths' whole logits") {
  // The gradient of the head from three depths, each with its own rows, one after the other.
  const std::vector<Index> rows{7, 6, 5};
  constexpr Index width = 6, vocab = 13;
  const auto w = weight(random_tensor<double>({vocab, width}, 1));
  Numbers dw(static_cast<std::size_t>(vocab * width), 0.0);
  Tape tape;
  std::vector<Var<double, Device>> states, losses;
  std::vector<Numbers> dx;
  for (std::size_t k = 0; k < rows.size(); ++k) {
    states.push_back(activation(random_tensor<double>({rows[k], width}, 10 + k)));
    const Ids labels = random_ids({rows[k]}, 20 + k, 0, vocab);
    losses.push_back(linear_cross_entropy<double, Device>(tape.adopt(states[k]), w, labels).loss);
    const reference::CrossEntropy want(host(states[k].value()), host(w.value()), labels.to_host(), width);
    dx.push_back(want.dx);
    for (std::size_t i = 0; i < dw.size(); ++i) dw[i] += want.dw[i];
    CHECK(host(losses[k].value())[0] == doctest::Approx(want.loss).epsilon(1e-13));
  }
  tape.backward(weighted_sum<double, Device>(losses, {1.0, 1.0, 1.0}));
  check_close(host(w.grad()), dw, 1e-12, "head");
  for (std::size_t k = 0; k < rows.size(); ++k)
    check_close(host(states[k].grad()), dx[k], 1e-12, cat("states of depth ", k));
}

TEST_CASE("logits are never held: peak memory does not grow with rows or vocabulary") {
  // Peak of forward and backward beyond the operands and their gradients.
  const auto peak = [](Index count, Index vocab, int depths) {
    const Device own = fresh_device();
    const auto zeros = [&](Shape shape) { return Tensor<float, Device>::zeros(own, shape); };
    const Weight<float, Device> w(zeros({vocab, 4}), std::make_shared<mtpx::detail::Slot<float, Device>>(),
                                  nullptr);
    Tape tape;
    std::vector<Var<float, Device>> states, losses;
    for (int k = 0; k < depths; ++k) {
      states.push_back(tape.input(zeros({count, 4})));
      losses.push_back(linear_cross_entropy<float, Device>(states.back(), w,
                                                           Tensor<std::int32_t, Device>::zeros(own, {count}))
                           .loss);
    }
    tape.backward(
        weighted_sum<float, Device>(losses, std::vector<float>(static_cast<std::size_t>(depths), 1.0f)));
    std::size_t operands = w.value().bytes() + w.grad().bytes();
    for (const auto& x : states) operands += 2 * x.value().bytes();
    return static_cast<double>(own.pool().peak_bytes() - operands);
  };
  constexpr double mib = 1 << 20;
  // One chunk of logits: 8 MiB on the host and, where larger products pay, 128 MiB on a GPU.
  constexpr Index rows = on_gpu ? 4096 : 512, vocab = on_gpu ? 8192 : 4096, more = on_gpu ? 4 : 8;
  const double least = peak(rows, vocab, 1);
  CHECK(least <= (on_gpu ? 170 : 17) * mib);
  CHECK(peak(rows, 4 * vocab, 1) <= least + 0.5 * mib);     // whole logits would take 32 MiB, or 512 on a GPU
  CHECK(peak(more * rows, vocab, 1) <= least + 0.5 * mib);  // 64, 512
  CHECK(peak(2 * rows, 2 * vocab, 3) <= least + 0.5 * mib);  // 96, 1536
}

TEST_SUITE_END();
