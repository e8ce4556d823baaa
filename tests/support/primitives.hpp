#pragma once
// The primitives as cards: those of one operand, and those of two. Every folder of tests that checks them
// goes through these lists. Their ops are one type, so that a card is compiled once for all of them.

#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/dropout.hpp>
#include <mtpx/ops/functions.hpp>
#include <mtpx/ops/gather.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/losses.hpp>
#include <mtpx/ops/matmul.hpp>
#include <mtpx/ops/reduce.hpp>
#include <mtpx/ops/softmax.hpp>

#include "support/card.hpp"

#include <functional>

namespace mtpx::test {

template <typename T, typename D>
struct OneOperand {
  std::string name;
  std::function<Var<T, D>(const Var<T, D>&)> op;
  double scale = 1, shift = 0;  ///< of the operand
  bool by_number = true;        ///< every number by itself

  auto card(Shape shape) const {
    return Card({"x"}, op, activation(random_tensor<T, D>(shape, 1, scale, shift)));
  }
};

/// Operands of at least two axes.
template <typename T, typename D>
std::vector<OneOperand<T, D>> one_operand_ops() {
  using X = const Var<T, D>&;
  return {
      {"neg", [](X x) { return neg(x); }},
      {"scale", [](X x) { return scale(x, 0.3); }},
      {"shift", [](X x) { return shift(x, 0.3); }},
      {"inverse", [](X x) { return inverse(x, 0.3); }, 0.5, 1.5},
      {"exp", [](X x) { return exp(x); }, 3},
      {"log", [](X x) { return log(x); }, 0.5, 1.5},
      {"sqrt", [](X x) { return sqrt(x); }, 0.5, 1.5},
      {"tanh", [](X x) { return tanh(x); }, 3},
      {"sigmoid", [](X x) { return sigmoid(x); }, 6},
      {"relu", [](X x) { return relu(x); }, 3},
      {"gelu", [](X x) { return gelu(x); }, 4},
      {"gelu_tanh", [](X x) { return gelu_tanh(x); }, 4},
      {"silu", [](X x) { return silu(x); }, 4},
      {"1 - 2 x / 3", [](X x) { return 1 - 2 * x / 3; }},
      {"dropout", [](X x) { return dropout(x, 0.3, 7, 11); }},
      {"sum", [](X x) { return sum(x); }, 1, 1, false},
      {"sum_last", [](X x) { return sum_last(x); }, 1, 1, false},
      {"mean", [](X x) { return mean(x); }, 1, 1, false},
      {"mean_last", [](X x) { return mean_last(x); }, 1, 1, false},
      {"softmax", [](X x) { return softmax(x); }, 3, 0, false},
      {"log_softmax", [](X x) { return log_softmax(x); }, 3, 0, false},
      {"transpose", [](X x) { return transpose(x); }, 1, 0, false},
      {"contiguous", [](X x) { return contiguous(x); }, 1, 0, false},
      {"x x^T", [](X x) { return matmul(x, x, {.b = true}); }, 1, 0, false},
      {"x x", [](X x) { return mul(x, x); }},
      {"1 / x / x", [](X x) { return div(inverse(x), x); }, 0.5, 1.5},
  };
}

template <typename T, typename D>
struct TwoOperands {
  std::string name;
  std::function<Var<T, D>(const Var<T, D>&, const Var<T, D>&)> op;
  Shape a, b;
  double shift = 0;  ///< of both operands

  auto card() const {
    return Card({"a", "b"}, op, activation(random_tensor<T, D>(a, 1, 0.5, shift)),
                activation(random_tensor<T, D>(b, 2, 0.5, shift)));
  }
};

template <typename T, typename D>
std::vector<TwoOperands<T, D>> two_operand_ops() {
  using X = const Var<T, D>&;
  std::vector<TwoOperands<T, D>> all;
  const auto add_all = [&](Shape a, Shape b) {
    all.push_back({"add", [](X x, X y) { return x + y; }, a, b});
    all.push_back({"sub", [](X x, X y) { return x - y; }, a, b});
    all.push_back({"mul", [](X x, X y) { return x * y; }, a, b});
    all.push_back({"div", [](X x, X y) { return x / y; }, a, b, 1.5});
  };
  // 29: the sum of their random gradients is no small difference of large numbers, as that of 35 would be.
  const Shape whole{2, 3, 29}, row{29}, column{2, 3, 1}, number{1};
  for (const auto& [a, b] :
       {std::pair(whole, whole), std::pair(whole, row), std::pair(whole, column), std::pair(whole, number),
        std::pair(row, whole), std::pair(column, whole), std::pair(number, whole), std::pair(column, row),
        std::pair(row, number), std::pair(Shape{7, 1}, number), std::pair(Shape{150, 3}, Shape{1, 3}),
        std::pair(Shape{3, 4500}, number), std::pair(Shape{0, 5}, Shape{5})})
    add_all(a, b);
  for (const Shape& mask : {Shape{2, 3, 29}, Shape{3, 29}, Shape{29}}) {
    const auto which = random_ids<D>(mask, 9, 0, 2);
    all.push_back({"where", [which](X x, X y) { return where(which, x, y); }, whole, whole});
    all.push_back({"where", [which](X x, X y) { return where(which, x, y); }, column, whole});
  }
  struct Sizes {
    Index batch, m, n, k;
  };
  for (const Sizes& s : {Sizes{1, 1, 1, 1}, Sizes{3, 5, 4, 7}, Sizes{2, 70, 19, 33}}) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        all.push_back({"matmul",
                       [=](X x, X y) {
                         return matmul(x, y, {ta, tb});
                       },
                       ta ? Shape{s.batch, s.k, s.m} : Shape{s.batch, s.m, s.k},
                       tb ? Shape{s.batch, s.n, s.k} : Shape{s.batch, s.k, s.n}});
      }
    }
  }
  all.push_back({"matmul", [](X x, X y) { return matmul(x, y); }, {2, 3, 7}, {7, 5}});
  all.push_back({"matmul", [](X x, X y) { return matmul(x, y, {.b = true}); }, {2, 3, 7}, {5, 7}});
  const auto ids = random_ids<D>({4, 6}, 3, 0, 9);
  all.push_back({"gather", [ids](X x, X y) { return mul(gather(x, ids), y); }, {9, 5}, {4, 6, 5}});
  all.push_back({"scatter", [ids](X x, X y) { return mul(scatter(x, ids, 9), y); }, {4, 6, 5}, {9, 5}});
  return all;
}

/// The losses, whose numbers are of the accumulation type.
template <typename T, typename D>
struct Loss {
  std::string name;
  std::function<Var<acc_t<T>, D>(const Var<T, D>&, const Var<T, D>&)> op;

  auto card(Shape shape) const {
    return Card({"a", "b"}, op, activation(random_tensor<T, D>(shape, 1, 2)),
                activation(random_tensor<T, D>(shape, 2, 2)));
  }
};

/// shape: of the operands
template <typename T, typename D>
std::vector<Loss<T, D>> losses(const Shape& shape) {
  using X = const Var<T, D>&;
  std::vector<Loss<T, D>> all;
  all.push_back({"mse", [](X a, X b) { return mse(a, b); }});
  all.push_back({"kl", [](X a, X b) {
                   const auto log_p = log_softmax(a);
                   const auto log_q = log_softmax(b);
                   return kl(log_p, log_q);
                 }});
  for (const Index divisor : {0, 50}) {
    const auto labels = random_ids<D>({shape.rows()}, 3, divisor == 0 ? -1 : 0, shape.width());
    all.push_back({"cross_entropy", [=](X a, X b) { return cross_entropy(add(a, b), labels, divisor); }});
  }
  return all;
}

}  // namespace mtpx::test
