#include <mtpx/nn/mla.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/nn/mla.hpp");

namespace {

constexpr double theta = 100;

/// No two widths are equal, so that a swapped part shows.
MlaOptions options(Index q_lora_rank) { return {8, 3, q_lora_rank, 7, 3, 4, 5, 0.4}; }

template <typename T>
Mla<T, Device> random_mla(Index q_lora_rank) {
  Mla<T, Device> mla(device(), options(q_lora_rank));
  std::uint64_t stream = 70;
  for_each_parameter(mla, [&](const std::string&, auto& parameter) {
    using N = typename std::remove_cvref_t<decltype(parameter)>::value_type;
    const bool gain = parameter.shape().rank() == 1;
    parameter.value().assign(random_tensor<N>(parameter.shape(), ++stream, gain ? 0.5 : 0.7, gain).to_host());
  });
  return mla;
}

template <typename T>
RopeTable<acc_t<T>, Device> table() {
  return make_rope_table<acc_t<T>>(device(), 128, 4, theta, {});
}

/// Columns [begin, begin + width) of rows of `stride`.
Numbers columns(const Numbers& x, Index stride, Index begin, Index width) {
  Numbers part;
  for (Index r = 0; r < static_cast<Index>(x.size()) / stride; ++r) {
    for (Index c = 0; c < width; ++c) part.push_back(nth(x, r * stride + begin + c));
  }
  return part;
}

/// DeepSeek-V3 Eq. 1-11 with whole keys, values and score matrices.
Numbers whole_mla(const Mla<double, Device>& mla, const Numbers& x, Index batch, Index time, const Ids& at,
                  const Ids& window) {
  const MlaOptions& o = mla.options;
  const auto w = [](const auto& module) { return host(module.weight.value()); };
  const Ints p = at.to_host();
  const Index q_width = o.heads * (o.nope + o.rope);
  Numbers q;
  if (o.q_lora_rank > 0) {
    const Numbers latent = reference::linear(x, w(*mla.q_a_proj), o.hidden, o.q_lora_rank);
    q = reference::linear(reference::rms_norm(latent, w(*mla.q_a_layernorm), 1e-6), w(*mla.q_b_proj),
                          o.q_lora_rank, q_width);
  } else {
    q = reference::linear(x, w(*mla.q_proj), o.hidden, q_width);
  }
  const Index kv_width = o.kv_lora_rank + o.rope;
  const Numbers kv_a = reference::linear(x, w(mla.kv_a_proj_with_mqa), o.hidden, kv_width);
  const Numbers latent =
      reference::rms_norm(columns(kv_a, kv_width, 0, o.kv_lora_rank), w(mla.kv_a_layernorm), 1e-6);
  const Numbers k_rope =
      reference::rope(columns(kv_a, kv_width, o.kv_lora_rank, o.rope), 1, o.rope, o.rope, p, theta);
  const Numbers kv = reference::linear(latent, w(mla.kv_b_proj), o.kv_lora_rank, o.heads * (o.nope + o.v));
  const reference::Attention attention({batch, time, o.heads, o.nope, o.rope, o.v},
                                       reference::rope(q, o.heads, o.nope + o.rope, o.rope, p, theta), kv,
                                       k_rope, window.defined() ? window.to_host() : Ints(), o.scale);
  return reference::linear(attention.o, w(mla.o_proj), o.heads * o.v, o.hidden);
}

LatentCache<double, Device> cache(Index sequences, Index capacity) {
  return {Tensor<double, Device>::zeros(device(), {sequences, capacity, 7 + 4})};
}

}  // namespace

TEST_CASE("Mla: Eq. 1-11 on whole keys and values, with and without a latent query") {
  for (const Index q_lora_rank : {0, 6}) {
    const auto mla = random_mla<double>(q_lora_rank);
    const auto x = random_tensor<double>({2, 5, 8}, 1);
    const Ids at = positions(2, 5, 3);
    Tape tape;
    check_close(host(mla(tape.constant(x), table<double>(), at, {}).value()),
                whole_mla(mla, host(x), 2, 5, at, {}), 1e-13);
    const Ids window = tensor<std::int32_t>({2, 5}, {0, 1, 0, 1, 2, 0, 0, 0, 1, 2});
    check_close(host(mla(tape.constant(x), table<double>(), window, window).value()),
                whole_mla(mla, host(x), 2, 5, window, window), 1e-13, "documents apart");
  }
}

TEST_CASE("Mla: the latent norms keep their own epsilon") {
  const auto mla = random_mla<double>(6);
  CHECK(mla.q_a_layernorm->eps == 1e-6);
  CHECK(mla.kv_a_layernorm.eps == 1e-6);
}

TEST_CASE("Mla: published names and fused layouts") {
  const auto names = [](Mla<double, Device> mla) {
    std::vector<std::string> all;
    for_each_tensor(mla, [&](const std::string& name, const auto& tensor) {
      all.push_back(cat(name, ' ', tensor.shape().str()));
    });
    return all;
  };
  CHECK(names(random_mla<double>(6)) ==
        std::vector<std::string>{"q_a_proj.weight [6, 8]", "q_a_layernorm.weight [6]",
                                 "q_b_proj.weight [21, 6]", "kv_a_proj_with_mqa.weight [11, 8]",
                                 "kv_a_layernorm.weight [7]", "kv_b_proj.weight [24, 7]",
                                 "o_proj.weight [8, 15]"});
  CHECK(names(random_mla<double>(0)) ==
        std::vector<std::string>{"q_proj.weight [21, 8]", "kv_a_proj_with_mqa.weight [11, 8]",
                                 "kv_a_layernorm.weight [7]", "kv_b_proj.weight [24, 7]",
                                 "o_proj.weight [8, 15]"});
}

TEST_CASE("Mla: every parameter and the input against finite differences") {
  for (const Index q_lora_rank : {0, 6}) {
    auto mla = random_mla<double>(q_lora_rank);
    const auto x = activation(random_tensor<double>({2, 4, 8}, 1));
    std::vector<GradcheckTarget<Device>> targets{{"x", x}};
    for_each_parameter(mla, [&](const std::string& name, auto& parameter) {
      targets.push_back({name, parameter});
    });
    const auto report = gradcheck<Device>(
        targets,
        [&](Tape& tape) {
          const auto y = mla(tape.adopt(x), table<double>(), positions(2, 4), {});
          return inner(y, random_tensor<double>(y.shape(), 1000));
        },
        1e-3);
    INFO(report.where);
    CHECK(report.within(1e-7));
  }
}

TEST_CASE("Mla: decoding two sequences side by side, rows in any order") {
  const auto mla = random_mla<double>(6);
  const auto x = random_tensor<double>({2, 3, 8}, 1);
  const Numbers from = host(x);
  const Numbers want = whole_mla(mla, from, 2, 3, positions(2, 3), {});
  const auto caches = cache(2, 4);
  // Sequence 1 first, and one position ahead of sequence 0 after the first pass.
  const std::vector<std::vector<std::int32_t>> sequences{{1, 1, 0}, {0, 1, 0}};
  const std::vector<std::vector<std::int32_t>> at{{0, 1, 0}, {1, 2, 2}};
  for (std::size_t pass = 0; pass < 2; ++pass) {
    Numbers in, expected;
    for (std::size_t r = 0; r < 3; ++r) {
      const Index row = sequences[pass][r] * 3 + at[pass][r];
      for (Index c = 0; c < 8; ++c) {
        in.push_back(nth(from, row * 8 + c));
        expected.push_back(nth(want, row * 8 + c));
      }
    }
    Tape tape(Mode::inference);
    const DecodeRows<Device> rows{tensor<std::int32_t>({3}, sequences[pass]),
                                  tensor<std::int32_t>({3}, at[pass])};
    check_close(
        host(mla.decode(tape.constant(tensor<double>({1, 3, 8}, in)), table<double>(), rows, caches).value()),
        expected, 1e-12);
  }
}

TEST_CASE_TEMPLATE("Mla: a decoded row has the same bits alone and beside others", T, float, double, bf16) {
  const auto mla = random_mla<T>(6);
  constexpr Index time = 70;  // more than one tile of keys
  const auto x = random_tensor<T>({1, time, 8}, 1);
  const auto run = [&](Index step) {
    const LatentCache<T, Device> entries{Tensor<T, Device>::zeros(device(), {1, time, 11})};
    Numbers all;
    for (Index begin = 0; begin < time; begin += step) {
      const Index count = std::min(step, time - begin);
      Tape tape(Mode::inference);
      const auto part = x.reshape({time, 8}).slice_front(begin, begin + count).reshape({1, count, 8});
      const DecodeRows<Device> rows{Ids::zeros(device(), {count}),
                                    positions(1, count, begin).reshape({count})};
      const Numbers y = host(mla.decode(tape.constant(part), table<T>(), rows, entries).value());
      all.insert(all.end(), y.begin(), y.end());
    }
    const Numbers written = host(entries.entries);
    all.insert(all.end(), written.begin(), written.end());
    return all;
  };
  const Numbers alone = run(1);
  // On a GPU up to 64 rows a pass are promised to stand alone.
  for (const Index step : {2, 3, 4, 6, 9, on_gpu ? 64 : 70})
    check_bits(run(step), alone, cat(step, " rows a pass"));
}

TEST_CASE("make_rope_table: cos and sin of position times frequency, times the magnitude") {
  const RopeScaling scaling{4, 16, 2, 0.25, 1, 0.5};
  const auto made = make_rope_table<double>(device(), 5, 4, theta, scaling);
  CHECK(made.positions() == 5);
  CHECK(made.rope() == 4);
  const auto f = rope_frequencies(4, theta, scaling);
  const double magnitude = rope_magnitude(scaling);
  CHECK(magnitude > 1.01);
  const Numbers cos = host(made.cos), sin = host(made.sin);
  for (Index p = 0; p < 5; ++p) {
    for (Index i = 0; i < 2; ++i) {
      const double angle = static_cast<double>(p) * f[static_cast<std::size_t>(i)];
      CHECK(nth(cos, p * 2 + i) == doctest::Approx(magnitude * std::cos(angle)).epsilon(1e-15));
      CHECK(nth(sin, p * 2 + i) == doctest::Approx(magnitude * std::sin(angle)).epsilon(1e-15));
    }
  }
}

TEST_SUITE_END();
