#pragma once

#include <mtpx/autograd/tape.hpp>
#include <mtpx/kernels.hpp>

namespace mtpx {

/// Dropout (Srivastava et al. 2014, JMLR 15, sec. 4), scaled so that the expectation stays.
///
///   y_i = x_i / (1 - rate) with probability 1 - rate, else 0
///
/// Whether number i stays is a function of seed, step and i: word i % 4 of Philox block i / 4 is at least
/// rate 2^32. So it is the same on every device and when an op is run again, and nothing is kept for
/// backward. Two uses in one model need two seeds. An evaluation passes the rate 0, which gives x itself. x:
/// any shape, may be strided   0 <= rate < 1   returns the same shape Saves for backward: nothing.   Throws
/// Error.
template <typename T, typename D>
Var<T, D> dropout(const Var<T, D>& x, double rate, std::uint64_t seed, std::uint64_t step) {
  Tape& tape = tape_of("dropout", x);
  if (!(rate >= 0 && rate < 1)) throw Error(cat("[dropout] the rate is at least 0 and below 1, not ", rate));
  if (rate == 0) return x;
  Tensor<T, D> y(x.device(), x.shape());
  drop_numbers(y.device(), x.rows(), seed, step, rate, x.data(), Sink<T>{y.data(), false});
  return tape.record("dropout", y, [rate, seed, step, dx = x.destination()](const Tensor<T, D>& dy) {
    drop_numbers(dy.device(), dy.rows(), seed, step, rate, dy.data(), dx.sink());
  });
}

}  // namespace mtpx
