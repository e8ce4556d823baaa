#include "support/card.hpp"

#include <mtpx/kernels.hpp>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/kernels/cpu/fold.hpp");

namespace {

/// Numbers of very different sizes, so that every other order of a sum shows.
template <typename A>
std::vector<A> spread_out(Index count, std::uint64_t stream) {
  std::vector<A> values;
  for (Index i = 0; i < count; ++i) {
    const auto at = static_cast<std::uint64_t>(i);
    const double fraction = Philox::uniform(1, stream, 2 * at) - 0.5;
    const double size = 30 * Philox::uniform(1, stream, 2 * at + 1);
    values.push_back(static_cast<A>(std::ldexp(fraction, static_cast<int>(size))));
  }
  return values;
}

}  // namespace

TEST_CASE_TEMPLATE("fold_parts: one by one from the left, what stood there first", A, float, double) {
  for (const Index count : {1, 7, 64, 1000, 40003}) {
    for (const Index parts : {1, 2, 3, 8}) {
      for (const bool accumulate : {false, true}) {
        CAPTURE(count);
        CAPTURE(parts);
        const std::vector<A> x = spread_out<A>(parts * count, 1), before = spread_out<A>(count, 2);
        Numbers want;
        for (Index i = 0; i < count; ++i) {
          A sum = accumulate ? before[static_cast<std::size_t>(i)] : A(0);
          for (Index p = 0; p < parts; ++p) {
            const A next = x[static_cast<std::size_t>(p * count + i)];
            sum = p == 0 && !accumulate ? next : static_cast<A>(sum + next);
          }
          want.push_back(sum);
        }
        const auto from = Tensor<A, Device>::from(device(), {parts, count}, x);
        const auto to = Tensor<A, Device>::from(device(), {count}, before);
        fold_parts(device(), count, parts, from.data(), Sink<A>{to.data(), accumulate});
        check_bits(host(to), want);
      }
    }
  }
  fold_parts(device(), 3, 1, static_cast<const A*>(nullptr), Sink<A>{});  // nobody wants it
}

TEST_CASE_TEMPLATE("squares_of_chunks, sums_of_chunks: the parts of sums_of_squares", A, float, double) {
  constexpr Index chunk = squares_chunk<A>;
  std::vector<Tensor<A, Device>> tensors;
  std::vector<std::span<const A>> all;
  std::vector<ChunkRange> ranges;
  Index chunks = 0;
  for (const Index size : {Index{5}, chunk, 3 * chunk + 1, Index{1}, 2 * chunk}) {
    tensors.push_back(
        Tensor<A, Device>::from(device(), {size}, spread_out<A>(size, static_cast<std::uint64_t>(size))));
    all.emplace_back(tensors.back().data(), static_cast<std::size_t>(size));
    ranges.push_back({chunks, (size + chunk - 1) / chunk});
    chunks += ranges.back().count;
  }
  const auto count = static_cast<Index>(all.size());
  Tensor<double, Device> whole(device(), {count}), parts(device(), {chunks}), sums(device(), {count});
  sums_of_squares(device(), std::span<const std::span<const A>>(all), whole.data());
  squares_of_chunks(device(), std::span<const std::span<const A>>(all), parts.data());
  sums_of_chunks(device(), ranges, parts.data(), sums.data());
  check_bits(host(sums), host(whole));

  // Whoever owns some chunks of a tensor has the same sums of them.
  const std::vector<std::span<const A>> owned{all[2].subspan(static_cast<std::size_t>(chunk))};
  Tensor<double, Device> of_owner(device(), {3});
  squares_of_chunks(device(), std::span<const std::span<const A>>(owned), of_owner.data());
  const Numbers every = host(parts), some = host(of_owner);
  check_bits(some, Numbers(every.begin() + 3, every.begin() + 6));
}

TEST_SUITE_END();
