// Depths with an embedding or an output head of their own, beside the same model whose depths share the main
// model's.

#include <mtpx/decode/generate.hpp>
#include <mtpx/model/backward.hpp>
#include <mtpx/model/with_depths.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("depths' own embedding and head");

namespace {

const std::string main_embedding = "model.embed_tokens.weight", main_head = "lm_head.weight";
const std::string own_embedding = "model.layers.3.embed_tokens.weight",
                  own_head = "model.layers.4.shared_head.head.weight";

/// Depth 1 of 2 has an embedding of its own, depth 2 a head.
Config own_config() {
  Config c = mixture_config(2);
  c.aux_loss_alpha = 0;
  c.mtpx_own_embeddings = {1};
  c.mtpx_own_heads = {2};
  return c;
}

/// A model of another configuration with the weights of `from`; own matrices are the main model's.
template <typename T>
Transformer<T, Device> copied(const Transformer<T, Device>& from, const Config& config) {
  Transformer<T, Device> model(device(), config);
  for_each_tensor(model, [&](const std::string& name, const auto& to) {
    for_each_tensor(from, [&](const std::string& other, const auto& tensor) {
      if constexpr (std::is_same_v<decltype(to), decltype(tensor)>) {
        const bool own = name.starts_with("model.layers.");
        const bool same = other == name ||
                          (other == main_embedding && own && name.ends_with(".embed_tokens.weight")) ||
                          (other == main_head && own && name.ends_with(".shared_head.head.weight"));
        if (same) to.assign(tensor.to_host());
      }
    });
  });
  return model;
}

template <typename T>
std::map<std::string, Numbers> pass_of(Transformer<T, Device>& model, Numbers* losses = nullptr) {
  const auto loss = mtp_backward(model, random_batch(2, 9, model.config.vocab_size), {.lambda = 0.6});
  if (losses != nullptr) {
    for (const auto& one : loss.depths) losses->push_back(host(one.loss.value())[0]);
  }
  return gradients(model);
}

template <typename T>
Ints text(const Transformer<T, Device>& model, Index draft, double temperature, Index* passes = nullptr) {
  const GenerateOptions options{
      .max_tokens = 24, .draft = draft, .sampling = {.temperature = temperature}, .seed = 5};
  Ints all;
  const auto statistics =
      generate(model, {1, 2, 3}, options, [&](std::int32_t token) { all.push_back(token); });
  if (passes != nullptr) *passes = statistics.passes;
  return all;
}

}  // namespace

TEST_CASE("own: copies of the main model's give its losses, and share its gradient among them") {
  Config c = mixture_config(2);
  c.aux_loss_alpha = 0;
  auto shared = random_model(c, 1);
  auto own = copied(shared, own_config());
  Numbers got, want;
  auto parts = pass_of(own, &got);
  const auto whole = pass_of(shared, &want);
  check_bits(got, want);
  const auto join = [&](const std::string& main, const std::string& part) {
    Numbers& sum = parts.at(main);
    const Numbers& other = parts.at(part);
    REQUIRE(other.size() == sum.size());
    CHECK(relative_error(other, Numbers(other.size(), 0.0)) > 1e-4);
    CHECK(relative_error(sum, whole.at(main)) > 1e-4);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += other[i];
    parts.erase(part);
  };
  join(main_embedding, own_embedding);
  join(main_head, own_head);
  check_close(parts, whole, 1e-13);
}

TEST_CASE("own: others than the main model's, against finite differences") {
  Config c = dense_config(2);
  c.mtpx_own_embeddings = {1, 2};
  c.mtpx_own_heads = {2};
  for (const bool tied : {false, true}) {
    c.tie_word_embeddings = tied;
    auto model = random_model(c, 4);
    std::vector<GradcheckTarget<Device>> targets;
    Index numbers = 0;
    for_each_parameter(model, [&](const std::string& name, auto& parameter) {
      numbers += parameter.shape().size();
      if (name.find("embed_tokens") != std::string::npos || name.find("head") != std::string::npos)
        targets.push_back({name, parameter});
    });
    CHECK(numbers == c.parameter_count());
    const auto windows = random_batch(2, 5, 11);
    const auto report = gradcheck<Device>(
        targets,
        [&](Tape& tape) { return mtp_loss(model, model(tape, windows), windows, {.lambda = 0.7}).total; },
        2e-5, 1);
    INFO("worst of " << report.checked << ": " << report.where);
    CHECK(report.within(1e-9));
  }
}

TEST_CASE("own: they train where the main model is frozen or detached, and nothing reaches the main one's") {
  auto model = random_model(own_config(), 1);
  model.freeze_main();
  const auto frozen = pass_of(model);
  for (const std::string& name : {own_embedding, own_head})
    CHECK(relative_error(frozen.at(name), Numbers(frozen.at(name).size(), 0.0)) > 1e-4);
  for (const std::string& name : {main_embedding, main_head}) CHECK(frozen.at(name).empty());

  auto detached = random_model(own_config(), 1);
  detached.detach_depths = true;
  const auto all = pass_of(detached);
  check_bits(all.at(own_embedding), frozen.at(own_embedding));
  check_bits(all.at(own_head), frozen.at(own_head));
}

TEST_CASE_TEMPLATE("own: they change what is drafted, never the text", T, double, float, bf16) {
  const auto shared = random_model<T>(mixture_config(2), 3, 0.4);
  Config c = shared.config;
  c.mtpx_own_heads = {1};
  c.mtpx_own_embeddings = {2};
  const auto same = copied(shared, c);
  auto other = copied(shared, c);
  const auto& matrix = other.mtp[0].head->weight.value();
  std::vector<T> negated = matrix.to_host();
  for (T& x : negated) x = T(-static_cast<float>(x));
  matrix.assign(negated);
  Index with_shared = 0, with_same = 0, with_other = 0;
  for (const double temperature : {0.0, 0.9}) {
    const Ints plain = text(shared, 0, temperature);
    Index passes[3];
    CHECK(text(shared, 2, temperature, &passes[0]) == plain);
    CHECK(text(same, 2, temperature, &passes[1]) == plain);
    CHECK(text(other, 2, temperature, &passes[2]) == plain);
    with_shared += passes[0], with_same += passes[1], with_other += passes[2];
  }
  CHECK(with_same == with_shared);
  CHECK(with_other != with_shared);
}

TEST_CASE("own: a module that stays keeps them, one of another design does not") {
  Config c = own_config();
  const auto from = random_model(c, 1);
  const auto numbers = [](const auto& model, const std::string& name) {
    Numbers found;
    for_each_tensor(model, [&](const std::string& other, const auto& tensor) {
      if (other == name) found = host(tensor);
    });
    return found;
  };
  const auto one = with_depths(from, 1, MtpHeads::sequential, 1);
  CHECK(one.config.mtpx_own_embeddings == std::vector<Index>{1});
  CHECK(one.config.mtpx_own_heads.empty());
  check_bits(numbers(one, own_embedding), numbers(from, own_embedding));
  CHECK(with_depths(from, 3, MtpHeads::sequential, 1).config.mtpx_own_heads == std::vector<Index>{2});
  CHECK(with_depths(from, 2, MtpHeads::repeated, 1).config.mtpx_own_embeddings.empty());

  // Copied: all that the last module has, its own head too; and a module of its own serves all depths.
  const auto four = with_depths(from, 4, MtpHeads::sequential, 1, true);
  CHECK(four.config.mtpx_own_heads == std::vector<Index>{2, 3, 4});
  const auto of_module = [](const auto& model, std::size_t k) {
    std::vector<Numbers> all;
    for_each_tensor(model.mtp[k],
                    [&](const std::string&, const auto& tensor) { all.push_back(host(tensor)); });
    return all;
  };
  CHECK(of_module(four, 0) == of_module(from, 0));
  for (const std::size_t k : {1U, 2U, 3U}) CHECK(of_module(four, k) == of_module(from, 1));
  CHECK(of_module(with_depths(from, 3, MtpHeads::repeated, 1, true), 0) == of_module(from, 0));
  CHECK(of_module(with_depths(from, 3, MtpHeads::repeated, 1), 0) != of_module(from, 0));
}

TEST_SUITE_END();
