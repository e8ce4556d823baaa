// Models whose output head is their embedding: against the same model with two equal matrices, whose
// gradients must add up.

#include <mtpx/decode/generate.hpp>
#include <mtpx/model/backward.hpp>
#include <mtpx/train/step.hpp>

#include "support/model.hpp"

#include <set>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("tied embeddings");

namespace {

const std::string embedding_name = "model.embed_tokens.weight", head_name = "lm_head.weight";

Config tied_config(MtpHeads heads = MtpHeads::sequential) {
  Config c = mixture_config(2);
  c.mtpx_heads = heads;
  c.tie_word_embeddings = true;
  return c;
}

/// The model with a matrix for each use, all weights those of `tied`.
template <typename T>
Transformer<T, Device> untied(const Transformer<T, Device>& tied) {
  Config c = tied.config;
  c.tie_word_embeddings = false;
  Transformer<T, Device> model(device(), c);
  for_each_tensor(model, [&](const std::string& name, const auto& to) {
    for_each_tensor(tied, [&](const std::string& other, const auto& from) {
      if constexpr (std::is_same_v<decltype(to), decltype(from)>) {
        if (other == (name == head_name ? embedding_name : name)) to.assign(from.to_host());
      }
    });
  });
  return model;
}

template <typename T>
std::pair<Numbers, std::map<std::string, Numbers>> pass(Transformer<T, Device>& model) {
  const auto loss = mtp_backward(model, random_batch(2, 9, model.config.vocab_size), {.lambda = 0.6});
  Numbers losses;
  for (const auto& depth : loss.depths) losses.push_back(host(depth.loss.value())[0]);
  return {losses, gradients(model)};
}

}  // namespace

TEST_CASE_TEMPLATE("tied: losses of the model with two equal matrices, and the sum of their gradients", T,
                   float, double) {
  for (const MtpHeads heads :
       {MtpHeads::sequential, MtpHeads::repeated, MtpHeads::parallel, MtpHeads::linear}) {
    CAPTURE(static_cast<int>(heads));
    auto tied = random_model<T>(tied_config(heads), 1);
    auto two = untied(tied);
    const auto got = pass(tied);
    auto want = pass(two);
    check_bits(got.first, want.first);
    const Numbers head = want.second.at(head_name);
    want.second.erase(head_name);
    Numbers& sum = want.second.at(embedding_name);
    CHECK(relative_error(sum, Numbers(sum.size(), 0.0)) > 1e-3);  // both have a part in it
    CHECK(relative_error(head, Numbers(head.size(), 0.0)) > 1e-3);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += head[i];
    REQUIRE(got.second.size() == want.second.size());
    for (const auto& [name, numbers] : got.second) {
      if (name == embedding_name) {
        check_close(numbers, sum, std::is_same_v<T, float> ? 1e-6 : 1e-14, name);
      } else {
        check_bits(numbers, want.second.at(name), name);
      }
    }
  }
}

TEST_CASE("tied: one parameter, which the optimiser moves once") {
  auto model = random_model<bf16>(tied_config(), 1);
  Index numbers = 0;
  std::set<std::string> names;
  for_each_parameter(model, [&](const std::string& name, const auto& parameter) {
    numbers += parameter.shape().size();
    names.insert(name);
  });
  CHECK(numbers == model.config.parameter_count());
  CHECK(names.contains(embedding_name));
  CHECK_FALSE(names.contains(head_name));
  Config two = model.config;
  two.tie_word_embeddings = false;
  CHECK(two.parameter_count() == numbers + two.vocab_size * two.hidden_size);

  const Numbers before = host(model.embed_tokens.value());
  TrainStep<bf16, Device> step(model, {random_batch(2, 9, 11)}, {});
  step(1e-2);
  CHECK(host(model.embed_tokens.value()) != before);
  CHECK(host(model.head(0).value()) == host(model.embed_tokens.value()));
  std::size_t states = 0;
  step.optimizer().for_each_state(model, [&](const std::string& name, const auto&) {
    CHECK_FALSE(name.starts_with(head_name));
    states += name.starts_with(embedding_name) ? 1 : 0;
  });
  CHECK(states == 3);  // two moments and a master
}

TEST_CASE("tied: a frozen main model has neither use trained, detached depths add to none") {
  Config c = tied_config();
  c.aux_loss_alpha = 0;
  auto model = random_model(c, 1);
  model.detach_depths = true;
  const auto detached = pass(model).second;
  model.zero_grad();
  Tape tape;
  const auto batch = random_batch(2, 9, 11);
  tape.backward(mtp_loss(model, model(tape, batch, 0), batch).total);
  check_bits(gradients(model).at(embedding_name), detached.at(embedding_name));
  model.freeze_main();
  CHECK(pass(model).second.at(embedding_name).empty());
}

TEST_CASE_TEMPLATE("tied: the text of the model with two equal matrices, plain and drafted", T, double, float,
                   bf16) {
  for (const MtpHeads heads : {MtpHeads::sequential, MtpHeads::parallel}) {
    const auto tied = random_model<T>(tied_config(heads), 3, 0.4);
    const auto two = untied(tied);
    for (const Index draft : {0, 2}) {
      for (const double temperature : {0.0, 0.9}) {
        const GenerateOptions options{
            .max_tokens = 24, .draft = draft, .sampling = {.temperature = temperature}, .seed = 5};
        const auto text = [&](const auto& model) {
          Ints all;
          const auto statistics =
              generate(model, {1, 2, 3}, options, [&](std::int32_t token) { all.push_back(token); });
          all.push_back(static_cast<std::int32_t>(statistics.passes));
          return all;
        };
        CHECK(text(tied) == text(two));
      }
    }
  }
}

TEST_SUITE_END();
