#pragma once
// Activation checkpointing: keep a block's input, run the block again in backward.

#include <mtpx/autograd/tape.hpp>

#include <tuple>
#include <utility>

namespace mtpx {

/// Runs `block(x)` without keeping its activations (Chen et al. 2016, arXiv 1604.06174). Backward runs it
/// a second time, on a tape of its own, and then back: memory of one block instead of all, for one more
/// forward. The gradients are the same to the last bit.
///
/// block: a function of one Var (on the tape that it is given) that returns a Var or a std::tuple of Vars.
///        Parameters that it uses receive their gradients as usual. It is copied and runs again in
///        backward: capture by value, or what lives until then.
/// Saves for backward: x.
template <typename T, typename D, typename Block>
auto checkpoint(const Var<T, D>& x, Block block) {
  Tape& tape = tape_of("checkpoint", x);
  const auto as_tuple = [](auto result) {
    if constexpr (requires { std::tuple_size<decltype(result)>::value; }) {
      return result;
    } else {
      return std::tuple(std::move(result));
    }
  };

  if (!tape.recording()) return block(x);

  Tape first(Mode::inference);
  first.set_statistics(tape.statistics());
  const Tape::Scope path(first, tape.path());  // errors name the whole path
  auto values =
      std::apply([](const auto&... y) { return std::tuple(y.value()...); }, as_tuple(block(first.adopt(x))));

  auto outputs = tape.record("checkpoint", values, [x, block, as_tuple](const auto&... dy) {
    Tape second(Mode::training);
    second.set_statistics(false);
    const auto again = as_tuple(block(second.adopt(x)));
    std::apply([&](const auto&... y) { (second.seed(y, dy), ...); }, again);
    second.run();
  });
  if constexpr (requires { std::tuple_size<decltype(block(x))>::value; }) {
    return outputs;
  } else {
    return std::get<0>(outputs);
  }
}

}  // namespace mtpx
