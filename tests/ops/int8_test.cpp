#include <mtpx/decode/generate.hpp>
#include <mtpx/ops/experts.hpp>
#include <mtpx/ops/int8.hpp>
#include <mtpx/ops/linear.hpp>
#include <mtpx/ops/next_token.hpp>
#include <mtpx/reference.hpp>

#include "support/card.hpp"
#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/kernels/int8.hpp");

namespace {

/// Matrices [out, in] in 8 bits, and the floats that they stand for.
struct Int8Case {
  Weight<float, Cpu> weight;
  std::vector<float> numbers;

  Int8Case(const Shape& shape, Index run, std::uint64_t stream) {
    const Parameter<float, Cpu> parameter(Cpu(1), shape, Int8Run(run, &int8_products<float, Cpu>));
    weight = parameter;
    const Int8Weight<Cpu>& kept = *parameter.int8();
    const Int8Weights one = kept.matrix();
    std::vector<float> row(static_cast<std::size_t>(one.in));
    for (Index r = 0; r < kept.count() * one.out; ++r) {
      for (Index j = 0; j < one.in; ++j) nth(row, j) = static_cast<float>(uniform(stream, r * one.in + j));
      kept.quantize_row(r / one.out, r % one.out, row.data());
      std::vector<std::int8_t> q(row.size());
      for (Index j = 0; j < one.in; j += run) {
        const Index columns = std::min(run, one.in - j);
        const float scale = quantize_block(row.data() + j, 1, columns, one.in, q.data() + j);
        for (Index k = j; k < j + columns; ++k) numbers.push_back(static_cast<float>(nth(q, k)) * scale);
      }
    }
  }
  Weight<float, Cpu> whole() const {
    return Weight<float, Cpu>(Tensor<float, Cpu>::from(Cpu(1), weight.shape(), numbers));
  }
};

struct Int8Sizes {
  Index rows, in, out, run;
};
// Around panels of 32 rows, runs of a scale, four columns of one and the 8 rows of few_rows.hpp.
const Int8Sizes int8_sizes[] = {{1, 1, 1, 1},    {1, 128, 32, 128}, {2, 129, 33, 128}, {3, 257, 70, 64},
                                {5, 96, 96, 96}, {8, 300, 100, 7},  {9, 300, 100, 4},  {70, 65, 31, 1000}};

template <typename X>
Tensor<X, Cpu> rows_of(const Int8Sizes& s) {
  return random_tensor<X, Cpu>({s.rows, s.in}, 1);
}

/// Weights of the kept model as a model of floats has them.
template <typename T>
void take_numbers(const Transformer<T, Cpu>& kept, const Transformer<T, Cpu>& model) {
  std::map<std::string, Tensor<T, Cpu>> all;
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    if constexpr (std::is_same_v<typename std::remove_cvref_t<decltype(tensor)>::value_type, T>)
      all.emplace(name, tensor);
  });
  for_each_int8(kept, [&](const std::string& name, const Int8Weight<Cpu>& weight, Index e) {
    const Int8Weights one = weight.matrix().of_stack(e);
    T* to = all.at(name).data();
    for (Index i = 0; i < one.out; ++i) {
      for (Index j = 0; j < one.in; ++j) *to++ = one.at<T>(i, j);
    }
  });
}

}  // namespace

TEST_CASE("quantize_block: the nearest of 255 numbers") {
  const std::vector<float> w{1.27F, -0.635F, 0.004F, 0.006F, 0, -1.27F};
  std::vector<std::int8_t> q(w.size());
  const float scale = quantize_block(w.data(), 2, 3, 3, q.data());
  CHECK(scale == 1.27F / 127);
  CHECK(q == std::vector<std::int8_t>{127, -64, 0, 1, 0, -127});
  for (std::size_t i = 0; i < w.size(); ++i)
    CHECK(std::fabs(static_cast<float>(q[i]) * scale - w[i]) <= 0.501F * scale);
  const std::vector<float> none(4), tiny(4, 1e-45F);
  CHECK(quantize_block(none.data(), 1, 4, 4, q.data()) == 0);
  CHECK(quantize_block(tiny.data(), 1, 4, 4, q.data()) == 0);
  CHECK(q[0] == 0);
}

TEST_CASE(
    "8-bit weights: products have the bits of the floats that they stand for, rows alone and together") {
  for (const Int8Sizes& s : int8_sizes) {
    CAPTURE(s.rows);
    CAPTURE(s.in);
    CAPTURE(s.out);
    const Int8Case kept({s.out, s.in}, s.run, 2);
    const Weight<float, Cpu> whole = kept.whole();
    for (const int threads : {1, 2, 3}) {
      device<Cpu>().set_threads(threads);
      Tape tape(Mode::inference);
      const auto x = rows_of<float>(s);
      const Numbers y = host(linear<float, float, Cpu>(tape.constant(x), kept.weight).value());
      check_bits(y, host(linear<float, float, Cpu>(tape.constant(x), whole).value()));
      const Numbers first =
          host(linear<float, float, Cpu>(tape.constant(x.slice_front(0, 1)), kept.weight).value());
      check_bits(first, Numbers(y.begin(), y.begin() + s.out));
      // bf16 activations: the sums are those of the floats, not yet rounded in logits.
      const auto in_bf16 = rows_of<bf16>(s);
      std::vector<float> logits(static_cast<std::size_t>(s.rows * s.out)), want(logits);
      linear_int8_forward(device<Cpu>(), in_bf16.rows(), in_bf16.data(), kept.weight.int8()->matrix(),
                          logits.data());
      linear_forward(device<Cpu>(), in_bf16.rows(), in_bf16.data(), s.out, whole.data(), want.data());
      CHECK(logits == want);
    }
    device<Cpu>().set_threads(1);
    const Reference reference;
    std::vector<float> y(static_cast<std::size_t>(s.rows * s.out));
    const auto x = rows_of<float>(s);
    linear_int8_forward(reference, x.rows(), x.data(), kept.weight.int8()->matrix(), y.data());
    Tape tape(Mode::inference);
    check_close(host(linear<float, float, Cpu>(tape.constant(x), kept.weight).value()),
                Numbers(y.begin(), y.end()), 1e-5);
  }
}

TEST_CASE("8-bit weights: rows that are not dense") {
  const Int8Case kept({40, 20}, 8, 2);
  const auto wide = random_tensor<float, Cpu>({6, 50}, 1);
  Tape tape(Mode::inference);
  const auto x = wide.narrow_last(13, 20);
  check_bits(host(linear<float, float, Cpu>(tape.constant(x), kept.weight).value()),
             host(linear<float, float, Cpu>(tape.constant(x), kept.whole()).value()));
}

TEST_CASE("8-bit weights: experts have the bits of the floats that they stand for") {
  const Index experts = 5, width = 36, inner = 12, tokens = 7, top_k = 2;
  const Int8Case gate({experts, inner, width}, 16, 1), up({experts, inner, width}, 16, 2),
      down({experts, width, inner}, 16, 3);
  const auto x = random_tensor<float, Cpu>({tokens, width}, 4);
  const auto weights = random_tensor<float, Cpu>({tokens, top_k}, 5);
  const auto plan = plan_experts<float, Cpu>(random_ids<Cpu>({tokens, top_k}, 6, 0, experts), experts, {});
  Tape tape(Mode::inference);
  const Var<float, Cpu> in = tape.constant(x), w = tape.constant(weights);
  const Numbers y = host(mtpx::experts<float, Cpu>(in, w, plan, gate.weight, up.weight, down.weight).value());
  check_bits(y, host(mtpx::experts<float, Cpu>(in, w, plan, gate.whole(), up.whole(), down.whole()).value()));
  const ExpertsShape s{tokens, width, inner, experts, top_k};
  std::vector<float> hidden_gate(static_cast<std::size_t>(s.slots() * inner)), hidden_up(hidden_gate),
      z(static_cast<std::size_t>(tokens * width));
  experts_int8_forward(Reference(), s, plan.offsets.data(), plan.slot.data(), plan.place.data(), x.data(),
                       width, weights.data(), gate.weight.int8()->matrix(), up.weight.int8()->matrix(),
                       down.weight.int8()->matrix(), hidden_gate.data(), hidden_up.data(), z.data());
  check_close(y, Numbers(z.begin(), z.end()), 1e-5);
}

TEST_CASE("8-bit weights: a model writes the text of the floats that they stand for, drafted or not") {
  for (const bool mixture : {true, false}) {
    Config c = mixture ? mixture_config(2) : dense_config(2);
    const Transformer<float, Cpu> whole = [&] {
      Transformer<float, Cpu> model(Cpu(2), c);
      initialize(model, 1, 0.3);
      return model;
    }();
    c.int8_blocks = BlockSize{1, 3};
    Transformer<float, Cpu> kept(Cpu(2), c, int8_products<float, Cpu>);
    initialize(kept, 1, 0.3);
    take_numbers(kept, whole);
    for (const double temperature : {0.0, 1.0}) {
      Ints want;
      for (const bool in_8_bits : {false, true}) {
        for (const Index draft : {0, 3}) {
          for (const bool few : {false, true}) {
            GenerateOptions options;
            options.max_tokens = 20;
            options.draft = draft;
            options.sampling.temperature = temperature;
            if (few) kept.draft_from({1, 2, 5});
            Ints text;
            generate(in_8_bits ? kept : whole, Ints{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, options,
                     [&](std::int32_t token) {
                       text.push_back(token);
                       return true;
                     });
            if (want.empty()) want = text;
            CHECK(text == want);
          }
        }
      }
    }
  }
}

TEST_CASE("8-bit weights: nothing else is done with them") {
  const Parameter<float, Cpu> parameter(Cpu(1), {2, 3}, Int8Run(2, &int8_products<float, Cpu>));
  const auto text = [](const auto& action) {
    try {
      action();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(
      text([&] { parameter.value(); }) ==
      "[weight] [2, 3] is kept in 8 bits, for decoding alone: its numbers cannot be read, trained or saved");
  CHECK(parameter.frozen());
  Tape tape;
  const auto x = random_tensor<float, Cpu>({1, 3}, 1);
  CHECK(text([&] { linear<float, float, Cpu>(tape.constant(x), parameter); }) ==
        "[linear] a weight in 8 bits has no backward; use a tape in inference mode");
  const Parameter<double, Cpu> exact(Cpu(1), {2, 3}, Int8Run(2, &int8_products<double, Cpu>));
  Tape quiet(Mode::inference);
  CHECK(text([&] {
          linear<double, double, Cpu>(quiet.constant(random_tensor<double, Cpu>({1, 3}, 1)), exact);
        }) == "[linear] a weight in 8 bits: this device has no products with them");
  CHECK(text([&] {
          Parameter<bf16, Cpu>(Cpu(1), {2, 3}, Int8Run(2, &int8_products<float, Cpu>));
        }) == "[parameter] a weight in 8 bits needs the int8_products of its own type and device");
}

TEST_SUITE_END();
