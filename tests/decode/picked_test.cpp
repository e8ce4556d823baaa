// Tokens picked on the host: log-probabilities, constraints; and where a text ends.

#include <mtpx/decode/generate.hpp>
#include <mtpx/model/loss.hpp>

#include "support/decoding.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/decode/generate.hpp: picked on the host");

namespace {

template <typename T>
std::vector<std::int32_t> text_of(const Transformer<T, Cpu>& model, const std::vector<std::int32_t>& prompt,
                                  const GenerateOptions& options) {
  std::vector<std::int32_t> tokens;
  generate(model, prompt, options, [&](std::int32_t token) {
    tokens.push_back(token);
    return true;
  });
  return tokens;
}

std::vector<std::int32_t> prompt_of(std::uint64_t stream, Index length, Index vocab) {
  return random_ids({length}, stream, 0, vocab).to_host();
}

}  // namespace

TEST_CASE("log-probabilities are those of the main model, and asking for them changes no text") {
  Config c = mixture_config(2);
  c.vocab_size = 5;
  const auto model = random_model<double>(c, 3, 0.5);
  const std::vector<std::int32_t> prompt = prompt_of(4, 6, 5);
  for (const double temperature : {0.0, 0.8}) {
    GenerateOptions options;
    options.max_tokens = 30;
    options.sampling = {temperature, 4, 0.95};
    options.draft = 0;
    const std::vector<std::int32_t> plain = text_of(model, prompt, options);

    // log softmax of the logits over the whole text, in one window.
    std::vector<std::int32_t> all = prompt;
    all.insert(all.end(), plain.begin(), plain.end());
    const Batch<Cpu> batch{
        Tensor<std::int32_t, Cpu>::from(model.device(), {1, static_cast<Index>(all.size())}, all), {}};
    Tape tape(Mode::inference);
    const auto loss = mtp_loss(model, model(tape, batch, 0), batch);
    const auto row_loss = loss.depths[0].row_loss.to_host();

    options.log_probabilities = true;
    for (const Index draft : {Index{0}, Index{1}, Index{3}, GenerateOptions::automatic}) {
      options.draft = draft;
      std::vector<std::int32_t> tokens;
      std::vector<double> log_p;
      generate(model, prompt, options, [&](std::int32_t token, double p) {
        tokens.push_back(token);
        log_p.push_back(p);
        return true;
      });
      CHECK(tokens == plain);
      REQUIRE(log_p.size() == tokens.size());
      for (std::size_t i = 0; i < log_p.size(); ++i)
        CHECK(log_p[i] == doctest::Approx(-row_loss[prompt.size() - 1 + i]).epsilon(1e-10));
    }
  }
}

TEST_CASE("a hook on logits constrains the text, which depends on no draft") {
  Config c = mixture_config(2);
  c.vocab_size = 6;
  const auto model = random_model<float>(c, 5, 0.5);
  const std::vector<std::int32_t> prompt = prompt_of(7, 5, 6);
  for (const double temperature : {0.0, 1.0}) {
    GenerateOptions options;
    options.max_tokens = 40;
    options.sampling.temperature = temperature;
    options.draft = 0;
    const std::vector<std::int32_t> free = text_of(model, prompt, options);
    // Never the token before once more, and nothing odd at even places of the text.
    options.logits_hook = [](std::span<const std::int32_t> text, std::span<double> logits) {
      constexpr double never = -std::numeric_limits<double>::infinity();
      logits[static_cast<std::size_t>(text.back())] = never;
      for (std::size_t t = 1; t < logits.size() && text.size() % 2 == 0; t += 2) logits[t] = never;
    };
    const std::vector<std::int32_t> plain = text_of(model, prompt, options);
    CHECK(plain != free);
    std::int32_t before = prompt.back();
    for (std::size_t i = 0; i < plain.size(); ++i) {
      CHECK(plain[i] != before);
      CHECK(((prompt.size() + i) % 2 == 1 || plain[i] % 2 == 0));
      before = plain[i];
    }
    for (const Index draft : {Index{1}, Index{2}, Index{4}, GenerateOptions::automatic}) {
      options.draft = draft;
      CHECK(text_of(model, prompt, options) == plain);
    }
    std::vector<std::vector<std::int32_t>> texts(3);
    options.draft = 2;
    generate_batch(model, {prompt, prompt, prompt}, 3, options, [&](std::size_t i, std::int32_t token) {
      texts[i].push_back(token);
      return true;
    });
    CHECK(texts[0] == plain);
    CHECK((texts[1] == plain) == (temperature == 0));  // another seed
  }
}

TEST_CASE("text ends after a stop sequence, wherever drafts put it") {
  Config c = mixture_config(2);
  c.vocab_size = 4;
  const auto model = random_model<double>(c, 9, 0.5);
  const std::vector<std::int32_t> prompt = prompt_of(2, 4, 4);
  GenerateOptions options;
  options.max_tokens = 50;
  options.sampling.temperature = 1;
  options.draft = 0;
  const std::vector<std::int32_t> whole = text_of(model, prompt, options);
  for (const std::size_t at : std::initializer_list<std::size_t>{0, 1, 7, 20, 47}) {
    const std::vector<std::int32_t> sequence(whole.begin() + static_cast<std::ptrdiff_t>(at),
                                             whole.begin() + static_cast<std::ptrdiff_t>(at) + 3);
    const auto first = std::search(whole.begin(), whole.end(), sequence.begin(), sequence.end());
    const std::vector<std::int32_t> want(whole.begin(), first + 3);
    options.stop_sequences = {{3, 3, 3, 3, 3, 3, 3, 3}, sequence};
    for (const Index draft : {0, 1, 3}) {
      options.draft = draft;
      CHECK(text_of(model, prompt, options) == want);
    }
  }
}

TEST_CASE("what is picked on the host needs drafts that plain decoding would pick") {
  const auto model = random_model<double>(dense_config(1), 1, 0.5);
  const auto says = [&](const auto& change) {
    GenerateOptions options;
    options.draft = 1;
    options.sampling.temperature = 1;
    options.log_probabilities = true;
    change(options);
    return error_text<ConfigError>([&] { text_of(model, {1}, options); });
  };
  const std::string text =
      "[generate] logits_hook and log_probabilities need coupled drafts and exact verification: others are "
      "settled on the device";
  CHECK(says([](GenerateOptions&) {}) == "");
  CHECK(says([](GenerateOptions& o) { o.draft_tokens = DraftTokens::drawn; }) == text);
  CHECK(says([](GenerateOptions& o) { o.verification = Verification::block; }) == text);
  CHECK(says([](GenerateOptions& o) {
          o.stop_sequences = {{1}, {}};
        }) == "[generate] stop_sequences = []: each must have a token");
}

TEST_SUITE_END();
