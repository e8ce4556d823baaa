#include <mtpx/train/gradient_sums.hpp>

#include <mtpx/model/backward.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/gradient_sums.hpp");

namespace {

template <typename T>
void micro_batch(Transformer<T, Device>& model, std::uint64_t micro) {
  mtp_backward(model, random_batch<Device>(2, 9, model.config.vocab_size, micro));
}

/// Each micro-batch's gradient by itself, added up here from the left, in the type of sums.
template <typename T>
std::map<std::string, Numbers> sum_by_hand(Transformer<T, Device>& model, std::uint64_t micros) {
  using A = acc_t<T>;
  std::map<std::string, Numbers> sum;
  for (std::uint64_t micro = 0; micro < micros; ++micro) {
    micro_batch(model, micro);
    for (const auto& [name, numbers] : test::gradients(model)) {
      Numbers& to = sum[name];
      if (micro == 0) to = numbers;
      for (std::size_t i = 0; micro > 0 && i < numbers.size(); ++i)
        to[i] = static_cast<A>(static_cast<A>(to[i]) + static_cast<A>(numbers[i]));
    }
    model.zero_grad();
  }
  return sum;
}

}  // namespace

TEST_CASE_TEMPLATE("GradientSums: each from zero, added from the left", T, float, double, bf16) {
  for (const std::uint64_t micros : {1U, 2U, 3U}) {
    CAPTURE(micros);
    Transformer<T, Device> model = random_model<T>(mixture_config(2), 1);
    const auto want = sum_by_hand(model, micros);
    GradientSums<T, Device> sums;
    for (int again = 0; again < 2; ++again) {
      for (std::uint64_t micro = 0; micro < micros; ++micro) {
        micro_batch(model, micro);
        sums.add(model);
        for (const auto& [name, numbers] : test::gradients(model)) CHECK(numbers.empty());
      }
      sums.finish(model);
      check_bits(test::gradients(model), want);
      model.zero_grad();
    }
  }
}

TEST_CASE("GradientSums: one micro-batch is not copied; what is dropped leaves nothing behind") {
  Transformer<double, Device> model = random_model(dense_config(1), 1);
  GradientSums<double, Device> sums;
  micro_batch(model, 0);
  const auto want = test::gradients(model);
  const double* const place = model.embed_tokens.grad().data();
  sums.add(model);
  sums.finish(model);
  CHECK(model.embed_tokens.grad().data() == place);
  check_bits(test::gradients(model), want);

  model.zero_grad();
  for (const std::uint64_t micro : {5U, 6U, 7U}) {
    micro_batch(model, micro);
    if (micro < 7) sums.add(model);
  }
  sums.forget(model);
  for (const auto& [name, numbers] : test::gradients(model)) CHECK(numbers.empty());
  micro_batch(model, 0);
  sums.add(model);
  sums.finish(model);
  check_bits(test::gradients(model), want);
}

TEST_CASE("GradientSums: a parameter that is frozen or has no gradient takes no part") {
  Transformer<double, Device> model = random_model(dense_config(1), 1);
  model.freeze_main();
  GradientSums<double, Device> sums;
  const auto want = sum_by_hand(model, 2);
  for (const std::uint64_t micro : {0U, 1U}) {
    micro_batch(model, micro);
    sums.add(model);
  }
  sums.finish(model);
  check_bits(test::gradients(model), want);
  CHECK(test::gradients(model).at("model.embed_tokens.weight").empty());
}

TEST_SUITE_END();
