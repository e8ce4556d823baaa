#include <mtpx/decode/generate.hpp>
#include <mtpx/nn/pack.hpp>
#include <mtpx/ops/experts.hpp>
#include <mtpx/ops/int8.hpp>
#include <mtpx/ops/linear.hpp>
#include <mtpx/ops/next_token.hpp>
#include <mtpx/reference.hpp>

#include "support/card.hpp"
#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/nn/pack.hpp");

namespace {

/// Weights as they are trained, and packed.
template <typename T>
struct PackedCase {
  Tensor<T, Cpu> rows;
  Parameter<T, Cpu> packed;

  PackedCase(const Shape& shape, std::uint64_t stream)
      : rows(random_tensor<T, Cpu>(shape, stream)), packed(Cpu(2), shape, Int8Run()) {
    std::copy_n(rows.data(), rows.size(), packed.data());
    pack(packed);
  }
  Weight<T, Cpu> whole() const { return Weight<T, Cpu>(rows); }

  /// A module of one parameter.
  struct Alone {
    Parameter<T, Cpu>& weight;
    static void members(auto& self, auto&& visit) { visit("weight", self.weight); }
  };
  static void pack(Parameter<T, Cpu>& parameter) {
    Alone module{parameter};
    pack_for_decoding(module);
  }
};

struct PackedSizes {
  Index rows, in, out;
};
// Around panels of 32 rows, words of 2 columns, the 8 rows of few_rows.hpp and blocks of 64.
const PackedSizes packed_sizes[] = {{1, 1, 1},   {1, 128, 32},  {2, 129, 33}, {3, 257, 70},
                                    {5, 96, 96}, {8, 300, 100}, {9, 77, 64},  {70, 65, 31}};

template <typename T>
void check_products() {
  for (const PackedSizes& s : packed_sizes) {
    CAPTURE(s.rows);
    CAPTURE(s.in);
    CAPTURE(s.out);
    const PackedCase<T> w({s.out, s.in}, 2);
    const PackedWeights<T> matrix = w.packed.packed()->matrix();
    for (Index i = 0; i < s.out; ++i) {
      for (Index j = 0; j < s.in; ++j) REQUIRE(matrix.at(i, j) == w.rows.data()[i * s.in + j]);
    }
    // Rows that are not dense, too.
    const auto x = random_tensor<T, Cpu>({s.rows, s.in + 5}, 1).narrow_last(3, s.in);
    for (const int threads : {1, 2, 3}) {
      device<Cpu>().set_threads(threads);
      Tape tape(Mode::inference);
      const Numbers y = host(linear<T, T, Cpu>(tape.constant(x), w.packed).value());
      check_bits(y, host(linear<T, T, Cpu>(tape.constant(x), w.whole()).value()));
      const Numbers first = host(linear<T, T, Cpu>(tape.constant(x.slice_front(0, 1)), w.packed).value());
      check_bits(first, Numbers(y.begin(), y.begin() + s.out));
      const Numbers logits = host(logits_of(x, TokenHead<T, Cpu>(w.packed)));
      check_bits(logits, host(logits_of(x, TokenHead<T, Cpu>(w.whole()))));
    }
    device<Cpu>().set_threads(1);
    const std::vector<std::int32_t> ends{0, static_cast<std::int32_t>(s.out - 1)};
    const std::span<const std::int32_t> some = std::span(ends).first(s.out > 1 ? 2U : 1U);
    const TokenHead<T, Cpu> of_packed(w.packed, some), of_rows(w.whole(), some);
    check_bits(host(of_packed.weight.value()), host(of_rows.weight.value()));
  }
}

}  // namespace

TEST_CASE("packed weights: products have the bits of the rows, alone and together") {
  check_products<float>();
  check_products<bf16>();
}

TEST_CASE("packed weights: the reference packs and multiplies as the equations say") {
  const Index rows = 3, in = 37, out = 45;
  const PackedCase<float> w({out, in}, 2);
  const PackedWeights<float> shape{out, in};
  std::vector<float> packed(static_cast<std::size_t>(shape.size()), 1.0F);
  const Reference reference;
  pack_weights(reference, Index{1}, shape, w.rows.data(), packed.data());
  const Tensor<float, Cpu>& ours = w.packed.packed()->numbers;
  CHECK(packed == std::vector<float>(ours.data(), ours.data() + ours.size()));
  const auto x = random_tensor<float, Cpu>({rows, in}, 1);
  std::vector<float> y(static_cast<std::size_t>(rows * out));
  linear_packed_forward(reference, x.rows(), x.data(), PackedWeights<float>{out, in, packed.data()},
                        y.data());
  Tape tape(Mode::inference);
  check_close(host(linear<float, float, Cpu>(tape.constant(x), w.packed).value()),
              Numbers(y.begin(), y.end()), 1e-5);
}

TEST_CASE("packed weights: experts have the bits of the rows") {
  const Index experts = 5, width = 36, inner = 13, tokens = 7, top_k = 2;
  const PackedCase<float> gate({experts, inner, width}, 1), up({experts, inner, width}, 2),
      down({experts, width, inner}, 3);
  const auto x = random_tensor<float, Cpu>({tokens, width}, 4);
  const auto weights = random_tensor<float, Cpu>({tokens, top_k}, 5);
  const auto plan = plan_experts<float, Cpu>(random_ids<Cpu>({tokens, top_k}, 6, 0, experts), experts, {});
  Tape tape(Mode::inference);
  const Var<float, Cpu> in = tape.constant(x), w = tape.constant(weights);
  const Numbers y = host(mtpx::experts<float, Cpu>(in, w, plan, gate.packed, up.packed, down.packed).value());
  check_bits(y, host(mtpx::experts<float, Cpu>(in, w, plan, gate.whole(), up.whole(), down.whole()).value()));
  const ExpertsShape s{tokens, width, inner, experts, top_k};
  std::vector<float> hidden_gate(static_cast<std::size_t>(s.slots() * inner)), hidden_up(hidden_gate),
      z(static_cast<std::size_t>(tokens * width));
  experts_packed_forward(Reference(), s, plan.offsets.data(), plan.slot.data(), plan.place.data(), x.data(),
                         width, weights.data(), gate.packed.packed()->matrix(), up.packed.packed()->matrix(),
                         down.packed.packed()->matrix(), hidden_gate.data(), hidden_up.data(), z.data());
  check_close(y, Numbers(z.begin(), z.end()), 1e-5);
}

namespace {
template <typename T>
void check_packed_text() {
  for (const bool mixture : {true, false}) {
    const Config c = mixture ? mixture_config(2) : dense_config(2);
    const Cpu host(2);
    Transformer<T, Cpu> model(host, c);
    initialize(model, 1, 0.3);
    Ints want[2];
    for (const bool packed : {false, true}) {
      if (packed) {
        pack_for_decoding(model);
        CHECK(host.pool().reserved_bytes() == host.pool().bytes_in_use());  // the rows are gone
      }
      for (const double temperature : {0.0, 1.0}) {
        for (const Index draft : {0, 3}) {
          GenerateOptions options;
          options.max_tokens = 20;
          options.draft = draft;
          options.sampling.temperature = temperature;
          Ints text;
          generate(model, Ints{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, options, [&](std::int32_t token) {
            text.push_back(token);
            return true;
          });
          Ints& first = want[temperature > 0 ? 1 : 0];
          if (first.empty()) first = text;
          CHECK(text == first);
        }
      }
    }
    Index count = 0;
    for_each_parameter(model, [&](const std::string&, const auto& parameter) {
      if (parameter.packed() != nullptr) ++count;
      CHECK(!parameter.can_be_packed());
    });
    CHECK(count >= 5 * c.num_hidden_layers);
  }
}
}  // namespace

TEST_CASE("packed weights: a model writes the same text, drafted or not") {
  check_packed_text<float>();
  check_packed_text<bf16>();
}

TEST_CASE("packed weights: nothing else is done with them") {
  PackedCase<float> w({2, 3}, 1);
  const auto text = [](const auto& action) {
    try {
      action();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(text([&] { w.packed.value(); }) ==
        "[weight] [2, 3] is packed, for decoding alone: its numbers cannot be read, trained or saved");
  CHECK(w.packed.frozen());
  w.packed.freeze(false);
  CHECK(w.packed.frozen());
  Tape tape;
  CHECK(text([&] {
          linear<float, float, Cpu>(tape.constant(random_tensor<float, Cpu>({1, 3}, 1)), w.packed);
        }) == "[linear] a weight that is packed has no backward; use a tape in inference mode");
  // Others than products read the one, double has no such products, and 8 bits are in order.
  Parameter<float, Cpu> table(Cpu(1), {2, 3});
  PackedCase<float>::pack(table);
  CHECK(table.value().defined());
  Parameter<double, Cpu> exact(Cpu(1), {2, 3}, Int8Run());
  PackedCase<double>::Alone module{exact};
  pack_for_decoding(module);
  CHECK(exact.packed() == nullptr);
  Parameter<float, Cpu> in_8_bits(Cpu(1), {2, 3}, Int8Run(2, &int8_products<float, Cpu>));
  PackedCase<float>::pack(in_8_bits);
  CHECK(in_8_bits.int8() != nullptr);
}

TEST_SUITE_END();
