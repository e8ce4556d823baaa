#pragma once
// Models whose logits are not finite, decoded on any device.

#include <mtpx/decode/generate.hpp>

#include "support/model.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace mtpx::test {

/// What a text of four tokens behind 1, 2, 3 ends with; "" if it does not.
template <typename T, typename D>
std::string decoding_error(const Transformer<T, D>& model, const GenerateOptions& options) {
  try {
    generate(model, {1, 2, 3}, options, [](std::int32_t) { return true; });
  } catch (const NumericError& error) {
    return error.what();
  }
  return "";
}

/// Checks that no token is written by logits that are not finite, however tokens and drafts are found.
/// config: of a sequential model
template <typename T, typename D>
void check_not_finite(Config config) {
  GenerateOptions greedy{.max_tokens = 4};
  GenerateOptions raced = greedy, cut = greedy, drawn = greedy, block = greedy, typical = greedy,
                  hooked = greedy;
  raced.sampling = {1.0};
  cut.sampling = {1.0, 5, 0.9};
  drawn.sampling = block.sampling = typical.sampling = hooked.sampling = {1.0};
  drawn.draft_tokens = DraftTokens::drawn;
  block.verification = Verification::block;
  typical.verification = Verification::lossy_typical;
  hooked.log_probabilities = true;
  const std::vector<GenerateOptions> ways{greedy, raced, cut, drawn, block, typical, hooked};
  const std::string row = "[next token] the logits of row ",
                    rest = " are not finite: no token can be chosen by them";

  // The last norm's gains, of the main model or of a depth.
  using A = acc_t<T>;
  for (const A bad : {std::numeric_limits<A>::quiet_NaN(), std::numeric_limits<A>::infinity()}) {
    for (const bool in_draft : {false, true}) {
      auto model = random_model<T, D>(config, 1);
      auto gain = in_draft ? model.mtp[0].norm->weight.value() : model.norm.weight.value();
      gain.assign(std::vector<A>(static_cast<std::size_t>(gain.size()), bad));
      for (std::size_t way = 0; way < ways.size(); ++way) {
        CAPTURE(way);
        for (const Index draft : {0, 1}) {
          GenerateOptions options = ways[way];
          options.draft = draft;
          const bool reached = !in_draft || draft > 0;
          CHECK(decoding_error(model, options) == (reached ? row + "0" + rest : ""));
        }
      }
    }
  }

  // The embeddings of all tokens but the prompt's. Heads that read none draft by finite logits; what the main
  // model says of the drafts is what is not.
  config.mtpx_heads = MtpHeads::linear;
  auto model = random_model<T, D>(config, 1);
  auto table = model.embed_tokens.value();
  std::vector<T> numbers = table.to_host();
  std::fill(numbers.begin() + 4 * config.hidden_size, numbers.end(),
            T(std::numeric_limits<float>::quiet_NaN()));
  table.assign(numbers);
  for (std::size_t way = 0; way < ways.size(); ++way) {
    CAPTURE(way);
    GenerateOptions options = ways[way];
    options.max_tokens = 20;
    options.draft = 1;
    const std::string error = decoding_error(model, options);
    CHECK(error.starts_with(row));
    CHECK(error.ends_with(rest));
  }
}

}  // namespace mtpx::test
