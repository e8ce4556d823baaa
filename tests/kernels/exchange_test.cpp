#include "support/card.hpp"

#include <mtpx/kernels.hpp>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/kernels/cpu/exchange.hpp");

namespace {

/// Choices of some tokens among experts: each another one for a token.
std::vector<std::int32_t> choices(Index tokens, Index top_k, Index experts) {
  std::vector<std::int32_t> ids;
  for (Index n = 0; n < tokens; ++n) {
    const Index first =
        Philox::block(4, 0, static_cast<std::uint64_t>(n))[0] % static_cast<std::uint32_t>(experts);
    for (Index k = 0; k < top_k; ++k)
      ids.push_back(static_cast<std::int32_t>((first * first + 3 * k) % experts));
  }
  return ids;
}

}  // namespace

TEST_CASE_TEMPLATE("plan_exchange, spread_slots, combine_slots: as their formulas say, with and without room",
                   T, float, double, bf16) {
  using A = acc_t<T>;
  constexpr Index experts = 8, top_k = 3;
  for (const Index tokens : {1, 7, 1500}) {
    for (const Index ranks : {2, 4}) {
      for (const Index width : {1, 5, 32}) {
        const Index slots = tokens * top_k, own = experts / ranks;
        const std::vector<std::int32_t> ids = choices(tokens, top_k, experts);
        const auto id = Tensor<std::int32_t, Device>::from(device(), {slots}, ids);
        const Tensor<std::int32_t, Device> offsets(device(), {experts + 1}), slot(device(), {slots}),
            place(device(), {slots}), row(device(), {slots}), bounds(device(), {ranks, own + 1});
        plan_experts(device(), slots, experts, id.data(), offsets.data(), slot.data(), place.data(),
                     static_cast<A*>(nullptr));
        for (const Index capacity : {slots, (slots + ranks - 1) / ranks}) {
          CAPTURE(tokens);
          CAPTURE(ranks);
          CAPTURE(capacity);
          const auto need = Tensor<A, Device>::zeros(device(), {2});
          plan_exchange(device(), ExchangeShape{slots, experts, ranks, capacity}, id.data(), offsets.data(),
                        place.data(), row.data(), bounds.data(), need.data());
          // By the definition: slots of a rank in the order of their experts, then of their numbers.
          std::vector<std::int32_t> want_row(ids.size(), -1), want_bounds;
          Index most = 0;
          for (Index r = 0; r < ranks; ++r) {
            Index next = 0;
            for (Index e = r * own; e <= (r + 1) * own; ++e) {
              want_bounds.push_back(static_cast<std::int32_t>(std::min(next, capacity)));
              for (std::size_t i = 0; e < (r + 1) * own && i < ids.size(); ++i) {
                if (ids[i] != e) continue;
                if (next < capacity) want_row[i] = static_cast<std::int32_t>(r * capacity + next);
                ++next;
              }
            }
            most = std::max(most, next);
          }
          CHECK(row.to_host() == want_row);
          CHECK(bounds.to_host() == want_bounds);
          const std::vector<A> seen = need.to_host();
          CHECK(seen[0] == static_cast<A>(most * ranks) / static_cast<A>(slots));
          CHECK(std::isnan(seen[1]) == (most > capacity));

          const auto x = random_tensor<T, Device>({tokens, width}, 5);
          const auto weights = random_tensor<A, Device>({tokens, top_k}, 6),
                     before = random_tensor<A, Device>({tokens, width}, 7);
          const auto spread = Tensor<T, Device>::zeros(device(), {ranks * capacity, width});
          spread_slots(device(), x.rows(), top_k, row.data(), x.data(), spread.data());
          const Numbers from = host(x), sent = host(spread), weight = host(weights);
          Numbers want_sent(sent.size(), 0.0), want_sum;
          for (Index i = 0; i < slots; ++i) {
            for (Index c = 0; want_row[static_cast<std::size_t>(i)] >= 0 && c < width; ++c)
              want_sent[static_cast<std::size_t>(want_row[static_cast<std::size_t>(i)] * width + c)] =
                  from[static_cast<std::size_t>(i / top_k * width + c)];
          }
          check_bits(sent, want_sent, "spread");
          for (const bool weighted : {true, false}) {
            Numbers want_y;
            for (Index n = 0; n < tokens; ++n) {
              for (Index c = 0; c < width; ++c) {
                A sum = 0;
                for (Index i = n * top_k; i < (n + 1) * top_k; ++i) {
                  const std::int32_t at = want_row[static_cast<std::size_t>(i)];
                  if (at < 0) continue;
                  const A factor = weighted ? static_cast<A>(weight[static_cast<std::size_t>(i)]) : A(1);
                  sum = std::fma(factor, static_cast<A>(want_sent[static_cast<std::size_t>(at * width + c)]),
                                 sum);
                }
                want_y.push_back(static_cast<double>(static_cast<A>(T(sum))));
              }
            }
            const Tensor<T, Device> y(device(), {tokens, width});
            combine_slots(device(), y.rows(), top_k, row.data(), weighted ? weights.data() : nullptr,
                          spread.data(), Sink<T>{y.data(), false});
            check_bits(host(y), want_y, "combined");
          }
        }
      }
    }
  }
}

TEST_SUITE_END();
