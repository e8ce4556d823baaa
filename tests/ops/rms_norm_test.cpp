#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/rms_norm.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/rms_norm.hpp");

namespace {

constexpr double eps = 1e-3;  // large enough to be missed

template <typename T>
auto norm_card(Shape shape) {
  return Card(
      {"x", "gain"},
      [](const auto& x, const auto& gain) { return rms_norm(x, gain, static_cast<acc_t<T>>(eps)); },
      activation(random_tensor<T>(shape, 1)), weight(random_tensor<acc_t<T>>({shape.width()}, 2, 0.5, 1)));
}

/// Both outputs side by side, so that both have gradients.
template <typename T>
auto add_norm_card(Shape shape) {
  return Card(
      {"x", "f", "gain"},
      [](const auto& x, const auto& f, const auto& gain) {
        const auto [total, y] = add_rms_norm(x, f, gain, static_cast<acc_t<T>>(eps));
        return concat(total, y);
      },
      activation(random_tensor<T>(shape, 1)), activation(random_tensor<T>(shape, 3)),
      weight(random_tensor<acc_t<T>>({shape.width()}, 2, 0.5, 1)));
}

auto composed_card(Shape shape) {
  return Card(
      {"x", "f", "gain"},
      [](const auto& x, const auto& f, const auto& gain) {
        const auto total = add(x, f);
        return concat(total, rms_norm(total, gain, eps));
      },
      activation(random_tensor<double>(shape, 1)), activation(random_tensor<double>(shape, 3)),
      weight(random_tensor<double>({shape.width()}, 2, 0.5, 1)));
}

const std::vector<Shape> shapes = {{1, 1}, {1, 9}, {2, 3, 5}, {3, 16}, {70, 3}};

}  // namespace

TEST_CASE("rms_norm: the card") {
  for (const Shape& shape : shapes) {
    CAPTURE(shape.str());
    const auto card = norm_card<double>(shape);
    check_close(card.run().value, reference::rms_norm(card.numbers<0>(), card.numbers<1>(), eps), 1e-12);
    card.check();
    card.check_strided<0>();
  }
  norm_card<double>({400, 70}).check_threads();
}

TEST_CASE("rms_norm: float and bf16") {
  check_same(norm_card<float>({7, 33}), norm_card<double>({7, 33}), float_bound);
  check_same(norm_card<bf16>({7, 33}), norm_card<float>({7, 33}), bf16_bound);
}

TEST_CASE("rms_norm: a row of zeros stays zero") {
  const Card card(
      {"x", "gain"}, [](const auto& x, const auto& gain) { return rms_norm(x, gain, 1e-6); },
      activation(Tensor<double, Device>::zeros(device(), {2, 3})), weight(random_tensor<double>({3}, 2)));
  check_close(card.run().value, Numbers(6, 0.0), 0);
  const Numbers gain = card.numbers<1>();
  const Numbers dy = host(random_tensor<double>({2, 3}, 1000));
  Numbers dx;
  for (std::size_t i = 0; i < 6; ++i) dx.push_back(dy[i] * gain[i % 3] / std::sqrt(1e-6));
  check_close(card.run().grads[0], dx, 1e-12);
}

TEST_CASE("add_rms_norm: the card") {
  for (const Shape& shape : shapes) {
    CAPTURE(shape.str());
    const auto card = add_norm_card<double>(shape);
    card.check();
    check_same(card, composed_card(shape), 1e-12);
  }
  add_norm_card<double>({400, 70}).check_threads();
}

TEST_CASE("add_rms_norm: one of the two outputs may go unused") {
  const auto only = [](auto pick) {
    return Card(
        {"x", "f", "gain"},
        [pick](const auto& x, const auto& f, const auto& gain) {
          return pick(add_rms_norm(x, f, gain, eps));
        },
        activation(random_tensor<double>({3, 5}, 1)), activation(random_tensor<double>({3, 5}, 3)),
        weight(random_tensor<double>({5}, 2, 0.5, 1)));
  };
  only([](const auto& outputs) { return std::get<0>(outputs); }).check();
  only([](const auto& outputs) { return std::get<1>(outputs); }).check();
}

TEST_CASE("add_rms_norm: float and bf16") {
  check_same(add_norm_card<float>({7, 33}), add_norm_card<double>({7, 33}), float_bound);
  check_same(add_norm_card<bf16>({7, 33}), add_norm_card<float>({7, 33}), bf16_bound);
}

TEST_CASE("add_rms_norm: an operand may be both x and f") {
  const Card card(
      {"x", "gain"},
      [](const auto& x, const auto& gain) {
        const auto [total, y] = add_rms_norm(x, x, gain, eps);
        return concat(total, y);
      },
      activation(random_tensor<double>({3, 7}, 1)), weight(random_tensor<double>({7}, 2, 0.5, 1)));
  card.check();
}

TEST_CASE("rms_norm, add_rms_norm: errors") {
  Tape tape;
  const auto x = tape.input(random_tensor<double>({2, 3}, 1));
  const auto gaps = tape.input(with_gaps(x.value()));
  const auto gain = weight(random_tensor<double>({3}, 1));
  const auto wrong = weight(random_tensor<double>({4}, 1));
  CHECK_THROWS_WITH_AS(rms_norm(x, wrong, eps),
                       "[rms_norm] gain needs one number per column of x\n  x: [2, 3]\n  gain: [4]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(add_rms_norm(x, x, wrong, eps),
                       "[add_rms_norm] gain needs one number per column of x\n  x: [2, 3]\n  gain: [4]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(add_rms_norm(x, tape.input(random_tensor<double>({3, 3}, 1)), gain, eps),
                       "[add_rms_norm] x and f need the same shape and dense rows\n  x: [2, 3]\n  f: [3, 3]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(
      add_rms_norm(x, gaps, gain, eps),
      "[add_rms_norm] x and f need the same shape and dense rows\n  x: [2, 3]\n  f: [2, 3], rows 8 apart",
      ShapeError);
}

TEST_SUITE_END();
