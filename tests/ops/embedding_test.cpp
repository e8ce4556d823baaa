#include <mtpx/ops/embedding.hpp>

#include "support/card.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/embedding.hpp");

namespace {

template <typename T>
auto embedding_card(const Ids& ids, Index vocab, Index width) {
  return Card(
      {"table"}, [ids](const auto& table) { return embedding(*table.tape(), ids, table); },
      weight(random_tensor<T>({vocab, width}, 1)));
}

Numbers looked_up(const Ids& ids, const Numbers& table, Index width) {
  Numbers y;
  for (const std::int32_t id : ids.to_host()) {
    y.insert(y.end(), table.begin() + id * width, table.begin() + (id + 1) * width);
  }
  return y;
}

}  // namespace

TEST_CASE("embedding: the card") {
  for (const Index width : {1, 5, 70}) {  // 64 columns are one task
    CAPTURE(width);
    const Ids ids = random_ids({2, 7}, 3, 0, 4);              // some ids several times
    const auto card = embedding_card<double>(ids, 5, width);  // id 4 never: its gradient is 0
    check_bits(card.run().value, looked_up(ids, card.numbers<0>(), width));
    card.check();
  }
  embedding_card<double>(random_ids({1, 1}, 3, 0, 1), 1, 1).check();
  embedding_card<double>(random_ids({5, 90}, 3, 0, 30), 30, 200).check_threads();
}

TEST_CASE("embedding: ids may be a slice of longer rows") {
  const Ids longer = random_ids({2, 8}, 3, 0, 5);
  const Ids slice = longer.narrow_last(1, 6);
  const Ids dense = tensor<std::int32_t>({2, 6}, slice.to_host());
  const auto card = embedding_card<double>(slice, 5, 3);
  card.check_same_bits(card.run(), embedding_card<double>(dense, 5, 3).run());
  CHECK(card.run().value == looked_up(slice, card.numbers<0>(), 3));
}

TEST_CASE("embedding: bf16 sums its gradient in float") {
  const Ids ids = random_ids({4, 30}, 3, 0, 3);
  const auto half = embedding_card<bf16>(ids, 3, 5);
  const auto full = embedding_card<float>(ids, 3, 5);
  half.check_same_bits(half.run(), full.run());
}

TEST_CASE("embedding: no ids give no output and a gradient of zeros") {
  const auto card = embedding_card<double>(Ids(device(), {2, 0}), 3, 2);
  const Result result = card.run();
  CHECK(result.value.empty());
  check_bits(result.grads[0], Numbers(6, 0.0));
}

TEST_CASE("embedding: on a GPU, an id outside the vocabulary is a row of zeros and trains nothing" *
          doctest::skip(!on_gpu)) {
  const auto run = [](const std::vector<std::int32_t>& ids) {
    return embedding_card<double>(tensor<std::int32_t>({1, 3}, ids), 4, 2).run();
  };
  for (const std::int32_t outside : {-1, 4, std::numeric_limits<std::int32_t>::max()}) {
    const Result got = run({1, outside, 3}), want = run({1, 0, 3});
    CHECK(Numbers(got.value.begin() + 2, got.value.begin() + 4) == Numbers{0, 0});
    CHECK(Numbers(got.grads[0].begin(), got.grads[0].begin() + 2) == Numbers{0, 0});  // of id 0
    for (std::size_t i = 2; i < 8; ++i) CHECK(got.grads[0][i] == want.grads[0][i]);
  }
}

TEST_CASE("embedding: errors") {
  Tape tape;
  const auto table = weight(random_tensor<double>({5, 2}, 1));
  const auto ids = [](std::vector<std::int32_t> values) { return tensor<std::int32_t>({2, 3}, values); };
  if (!on_gpu) {  // which does not look: the host would have to wait for what it finds
    CHECK_THROWS_WITH_AS(embedding(tape, ids({0, 1, 2, 3, 4, 5}), table),
                         "[embedding] token id 5 at row 1, column 2 is outside the vocabulary of 5",
                         NumericError);
    CHECK_THROWS_WITH_AS(embedding(tape, ids({0, -1, 2, 3, 4, 5}), table),
                         "[embedding] token id -1 at row 0, column 1 is outside the vocabulary of 5",
                         NumericError);
  }
  CHECK_THROWS_WITH_AS(embedding(tape, tensor<std::int32_t>({3}, {0, 1, 2}), table),
                       "[embedding] ids are [B, T], the table is [V, D]\n  ids: [3]\n  table: [5, 2]",
                       ShapeError);
  const Tape::Scope scope(tape, "model");
  CHECK_THROWS_WITH_AS(
      embedding(tape, ids({0, 1, 2, 3, 4, 4}), weight(random_tensor<double>({5}, 1))),
      "[embedding] ids are [B, T], the table is [V, D]\n  ids: [2, 3]\n  table: [5]\n  in model", ShapeError);
}

TEST_SUITE_END();
