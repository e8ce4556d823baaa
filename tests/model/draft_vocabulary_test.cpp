#include <mtpx/model/draft_vocabulary.hpp>
#include <mtpx/model/with_depths.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/model/draft_vocabulary.hpp");

TEST_CASE("most_frequent_ids: by count, the lowest among equals, ascending") {
  const std::vector<Index> counts{3, 9, 0, 9, 3, 3};
  using FrequentIds = std::vector<std::int32_t>;
  CHECK(most_frequent_ids(counts, 0).empty());
  CHECK(most_frequent_ids(counts, 1) == FrequentIds{1});
  CHECK(most_frequent_ids(counts, 2) == FrequentIds{1, 3});
  CHECK(most_frequent_ids(counts, 4) == FrequentIds{0, 1, 3, 4});
  CHECK(most_frequent_ids(counts, 6) == FrequentIds{0, 1, 2, 3, 4, 5});
  CHECK(most_frequent_ids(counts, 7) == FrequentIds{0, 1, 2, 3, 4, 5});
}

TEST_CASE("check_draft_ids: tokens, ascending, each once") {
  const auto error = [](const std::vector<std::int32_t>& ids) {
    return error_text<ConfigError>([&] { check_draft_ids(ids, 11); });
  };
  CHECK(error({}).empty());
  CHECK(error({0, 3, 10}).empty());
  CHECK(error({0, 11}) == "[draft vocabulary] id 1 is 11: outside the vocabulary of 11");
  CHECK(error({-1, 2}) == "[draft vocabulary] id 0 is -1: outside the vocabulary of 11");
  CHECK(error({4, 3}) == "[draft vocabulary] id 1 is 3: must be above the one before it, 4");
  CHECK(error({4, 4}) == "[draft vocabulary] id 1 is 4: must be above the one before it, 4");
}

TEST_CASE(
    "Transformer: drafts are picked from all tokens until it is said from which; depths added keep them") {
  Config c = dense_config(1);
  c.mtpx_draft_vocabulary = 3;
  Transformer<double, Device> model = random_model(c, 1);
  CHECK(model.draft_ids().empty());
  CHECK(model.config.mtpx_draft_vocabulary == 0);
  CHECK_THROWS_AS(model.draft_from({3, 2}), ConfigError);
  model.draft_from({2, 3, 7});
  CHECK(model.config == c);
  const auto more = with_depths(model, 2, MtpHeads::parallel, 5);
  CHECK(more.draft_ids() == model.draft_ids());
  CHECK(more.config.mtpx_draft_vocabulary == 3);
  model.draft_from({});
  CHECK(with_depths(model, 2, MtpHeads::parallel, 5).config.mtpx_draft_vocabulary == 0);
}

TEST_SUITE_END();
