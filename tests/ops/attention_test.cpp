#include <mtpx/ops/attention.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/attention.hpp");

namespace {

constexpr double softmax_scale = 0.7;

template <typename T>
auto attention_card(AttentionShape s, const Ids& positions = {}, double spread = 1) {
  return Card(
      {"q", "kv", "k_rope"},
      [=](const auto& q, const auto& kv, const auto& k_rope) {
        return attention(q, kv, k_rope, s, static_cast<acc_t<T>>(softmax_scale), positions);
      },
      activation(random_tensor<T>({s.batch, s.time, s.heads * (s.nope + s.rope)}, 1, spread)),
      activation(random_tensor<T>({s.batch, s.time, s.heads * (s.nope + s.v)}, 2)),
      activation(random_tensor<T>({s.batch, s.time, s.rope}, 3)));
}

/// Positions within documents of `length` tokens; the last one is cut.
Ids documents(AttentionShape s, Index length) {
  std::vector<std::int32_t> positions;
  for (Index i = 0; i < s.batch * s.time; ++i)
    positions.push_back(static_cast<std::int32_t>(i % s.time % length));
  return tensor<std::int32_t>({s.batch, s.time}, positions);
}

/// Value and gradients equal those over a materialised matrix of scores.
template <typename CardType>
void check_reference(const CardType& card, AttentionShape s, const Ids& positions) {
  const Result got = card.run();
  const Ints ids = positions.defined() ? positions.to_host() : Ints();
  const Numbers d_o = host(random_tensor<double>({s.batch, s.time, s.heads * s.v}, 1000));
  const reference::Attention want(s, card.template numbers<0>(), card.template numbers<1>(),
                                  card.template numbers<2>(), ids, softmax_scale, d_o);
  check_close(got.value, want.o, 1e-12);
  check_close(got.grads[0], want.dq, 1e-12, "gradient of q");
  check_close(got.grads[1], want.dkv, 1e-12, "gradient of kv");
  check_close(got.grads[2], want.dk_rope, 1e-12, "gradient of k_rope");
}

}  // namespace

// p = 1 and dp = delta: their difference would be noise if the two sums had different orders.
TEST_CASE_TEMPLATE("attention: a query that sees one key alone has no gradient, to the last bit", T, float,
                   double) {
  const AttentionShape s{2, 1, 2, 33, 16, 47};
  const Result got = attention_card<T>(s).run();
  CHECK(got.grads[0] == Numbers(static_cast<std::size_t>(s.batch * s.heads * (s.nope + s.rope)), 0.0));
  CHECK(got.grads[2] == Numbers(static_cast<std::size_t>(s.batch * s.rope), 0.0));
}

TEST_CASE("attention: the card") {
  // One of everything; one head; several heads; a part of a tile after a whole one.
  for (const AttentionShape& s : {AttentionShape{1, 1, 1, 1, 2, 1}, AttentionShape{2, 5, 1, 3, 2, 4},
                                  AttentionShape{2, 7, 3, 4, 4, 9}, AttentionShape{1, 70, 2, 3, 2, 5}}) {
    CAPTURE(s.time);
    CAPTURE(s.heads);
    const auto card = attention_card<double>(s);
    check_reference(card, s, {});
    card.check();
  }
}

TEST_CASE("attention: the card with documents") {
  for (const AttentionShape& s : {AttentionShape{2, 7, 2, 3, 2, 4}, AttentionShape{1, 70, 2, 3, 2, 5}}) {
    for (const Index length : {1, 3, 66}) {
      CAPTURE(s.time);
      CAPTURE(length);
      const auto card = attention_card<double>(s, documents(s, length));
      check_reference(card, s, documents(s, length));
      if (length != 3) card.check();
    }
  }
}

TEST_CASE("attention: three tiles of queries and keys") {
  for (const Index time : {64, 128, 150}) {
    CAPTURE(time);
    const AttentionShape s{2, time, 2, 9, 4, 17};
    attention_card<double>(s).check_threads();
    check_reference(attention_card<double>(s), s, {});
    for (const Index length : {1, 64, 65, 100}) {  // 1 and 64: whole tiles of keys are skipped
      check_reference(attention_card<double>(s, documents(s, length)), s, documents(s, length));
    }
  }
}

TEST_CASE("attention: no rotated part, or nothing but it") {
  for (const AttentionShape& s : {AttentionShape{2, 9, 2, 5, 0, 3}, AttentionShape{2, 9, 2, 0, 4, 3}}) {
    const auto card = attention_card<double>(s);
    check_reference(card, s, {});
    card.check_frozen();
  }
}

TEST_CASE("attention: float and bf16") {
  const AttentionShape s{2, 70, 2, 16, 8, 16};
  const Ids positions = documents(s, 40);
  check_same(attention_card<float>(s, positions), attention_card<double>(s, positions), float_bound);
  check_same(attention_card<bf16>(s, positions), attention_card<float>(s, positions), bf16_bound);
}

TEST_CASE("attention: a position beyond the row sees from its start") {
  const AttentionShape s{1, 6, 1, 3, 2, 4};
  const auto far = tensor<std::int32_t>({1, 6}, {100, 101, 102, 103, 104, 105});
  const auto card = attention_card<double>(s);
  card.check_same_bits(attention_card<double>(s, far).run(), card.run());
}

TEST_CASE("packed documents equal separate ones") {
  const AttentionShape both{1, 80, 2, 3, 2, 4};
  const AttentionShape alone{1, 40, 2, 3, 2, 4};
  const auto packed = attention_card<double>(both, documents(both, 40));
  const auto value = packed.run().value;
  for (const Index d : {0, 1}) {
    const auto part = [d](const auto& x) {
      return x.value()
          .reshape({80, x.shape().width()})
          .slice_front(d * 40, d * 40 + 40)
          .reshape({1, 40, x.shape().width()});
    };
    Tape tape(Mode::inference);
    const auto o =
        attention(tape.constant(part(packed.operand<0>())), tape.constant(part(packed.operand<1>())),
                  tape.constant(part(packed.operand<2>())), alone, softmax_scale);
    check_close(host(o.value()), Numbers(value.begin() + d * 40 * 8, value.begin() + (d + 1) * 40 * 8),
                1e-12);
  }
}

TEST_CASE("attention: a query's bits depend on itself and its keys alone") {
  const AttentionShape s{1, 130, 2, 3, 2, 5};
  const auto card = attention_card<float>(s);
  const Numbers whole = card.run().value;
  for (const Index time : {1, 2, 63, 64, 65, 129}) {
    CAPTURE(time);
    const auto front = [time](const auto& x) {
      return x.value()
          .reshape({130, x.shape().width()})
          .slice_front(0, time)
          .reshape({1, time, x.shape().width()});
    };
    AttentionShape shorter = s;
    shorter.time = time;
    Tape tape(Mode::inference);
    const auto o =
        attention(tape.constant(front(card.operand<0>())), tape.constant(front(card.operand<1>())),
                  tape.constant(front(card.operand<2>())), shorter, static_cast<float>(softmax_scale));
    check_bits(host(o.value()), Numbers(whole.begin(), whole.begin() + time * 10));
  }
}

TEST_CASE("attention: a query's bits do not depend on the documents beside it") {
  const AttentionShape s{1, 130, 1, 3, 2, 5};
  const auto row_100 = [&s](std::int32_t others) {  // sees keys 60 to 100
    std::vector<std::int32_t> positions(130, others);
    positions[100] = 40;
    const Numbers o = attention_card<float>(s, tensor<std::int32_t>({1, 130}, positions)).run().value;
    return Numbers(o.begin() + 500, o.begin() + 505);
  };
  check_bits(row_100(0), row_100(130));
}

TEST_CASE("attention: huge scores stay finite") {
  // Almost every row has one key that takes all, so gradients are 0 but for rounding: no use comparing them.
  const AttentionShape s{1, 70, 1, 2, 2, 3};
  const auto card = attention_card<double>(s, {}, 1e4);
  const reference::Attention want(s, card.numbers<0>(), card.numbers<1>(), card.numbers<2>(), {},
                                  softmax_scale);
  const Result in_double = card.run();
  check_close(in_double.value, want.o, 1e-11);
  const Result in_float = attention_card<float>(s, {}, 1e4).run();
  for (const Result& result : {in_double, in_float}) {
    CHECK(all_finite(result.value));
    for (const Numbers& g : result.grads) CHECK(all_finite(g));
  }
}

TEST_CASE("attention: errors") {
  Tape tape;
  const AttentionShape s{1, 3, 2, 2, 2, 3};
  const auto x = [&tape](Index width) { return tape.input(random_tensor<double>({1, 3, width}, 1)); };
  const auto q = x(8), kv = x(10), k_rope = x(2);
  const std::string rule =
      "[attention] q, kv and k_rope must be dense [1, 3, *] of 2 heads with nope 2, rope 2, v 3"
      "\n  q: [1, 3, 8]";
  CHECK_THROWS_WITH_AS(attention(q, x(9), k_rope, s, softmax_scale),
                       (rule + "\n  kv: [1, 3, 9]\n  k_rope: [1, 3, 2]").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(attention(q, kv, x(4), s, softmax_scale),
                       (rule + "\n  kv: [1, 3, 10]\n  k_rope: [1, 3, 4]").c_str(), ShapeError);
  CHECK_THROWS_WITH_AS(attention(tape.input(with_gaps(q.value())), kv, k_rope, s, softmax_scale),
                       (rule + ", rows 13 apart\n  kv: [1, 3, 10]\n  k_rope: [1, 3, 2]").c_str(), ShapeError);
  const Tape::Scope scope(tape, "self_attn");
  CHECK_THROWS_WITH_AS(
      attention(q, kv, k_rope, s, softmax_scale, random_ids({1, 2}, 1, 0, 2)),
      "[attention] every row needs one position\n  q: [1, 3, 8]\n  positions: [1, 2]\n  in self_attn",
      ShapeError);
}

TEST_SUITE_END();
