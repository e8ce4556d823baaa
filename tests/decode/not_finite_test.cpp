#include <mtpx/decode/generate.hpp>

#include "support/model.hpp"

#include <limits>
#include <string>
#include <vector>

using namespace mtpx;
using namespace mtpx::test;

TEST_CASE("generate: logits that are not finite end the text with an error, drafted, drawn or neither") {
  Config c = mixture_config(1);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const bool in_draft : {false, true}) {
      auto model = random_model<float>(c, 1);
      auto gain = in_draft ? model.mtp[0].norm->weight.value() : model.norm.weight.value();
      gain.assign(std::vector<float>(static_cast<std::size_t>(gain.size()), bad));
      for (const double temperature : {0.0, 1.0}) {
        GenerateOptions options;
        options.max_tokens = 4;
        options.sampling.temperature = temperature;
        for (options.draft = 0; options.draft < 2; ++options.draft) {
          std::string text;
          try {
            generate(model, {1, 2, 3}, options, [](std::int32_t) { return true; });
          } catch (const NumericError& error) {
            text = error.what();
          }
          const bool reached = !in_draft || options.draft > 0;
          CHECK(text ==
                (reached ? "[next token] the logits of row 0 are not finite: no token can be chosen by them"
                         : ""));
        }
      }
    }
  }
}
