// Speculative decoding: the modules draft, the main model checks all drafts in one pass, the text stays the
// same.

#include "claim.hpp"

#include <mtpx/decode/generate.hpp>
#include <mtpx/model/loss.hpp>
#include <mtpx/train/adamw.hpp>

#include <iostream>
#include <string>
#include <vector>

namespace {

using mtpx::Cpu;
using mtpx::Index;

}  // namespace

int main() {
  const Cpu cpu(1);
  mtpx::Config config = mtpx::tiny();
  config.hidden_size = 48;
  config.intermediate_size = 128;
  config.moe_intermediate_size = 64;
  config.num_hidden_layers = 1;
  config.num_nextn_predict_layers = 2;
  config.initializer_range = 0.02;
  config.max_position_embeddings = 256;
  mtpx::Transformer<float, Cpu> model(cpu, config);
  mtpx::initialize(model, 1);

  const std::string text =
      "\nPeter Piper picked a peck of pickled peppers. A peck of pickled peppers Peter picked.";
  const std::vector<std::int32_t> bytes(text.begin(), text.end());
  const mtpx::Shape shape{1, static_cast<Index>(bytes.size())};
  const mtpx::Batch<Cpu> batch{mtpx::Tensor<std::int32_t, Cpu>::from(cpu, shape, bytes), {}};
  mtpx::AdamW<float, Cpu> optimizer;

  // The same prompt and the same number of bytes, with K drafts a pass.
  const auto write = [&](Index k) {
    std::string written;
    mtpx::GenerateOptions options;
    options.max_tokens = 80;
    options.draft = k;  // sampling stays greedy: always the most likely byte
    const auto run = generate(model, {'\n'}, options, [&](int byte) {
      written += static_cast<char>(byte);
      return true;
    });
    std::cout << "K = " << k << ": " << run.passes << " passes, " << run.tokens_per_pass() << " bytes a pass";
    for (std::size_t i = 0; i < run.accepted.size(); ++i)
      std::cout << (i == 0 ? "; drafts that stood: " : ", ") << run.accepted[i] << " of " << run.drafts;
    std::cout << "\n    " << written << '\n';
    return std::pair(written, run.passes);
  };

  for (const int steps : {25, 75}) {
    for (int step = 0; step < steps; ++step) {
      mtpx::Tape tape;
      tape.backward(mtp_loss(model, model(tape, batch), batch).total);
      optimizer.step(model, mtpx::clip_norm(model, 1.0), 5e-3);
    }
    std::cout << "after " << optimizer.steps() << " steps\n";
    const auto [plain, passes] = write(0);
    for (const Index k : {1, 2, 3}) {  // the third draft runs the last module again on its own output
      const auto [drafted, fewer] = write(k);
      claim("the drafts change nothing: the same bytes", drafted == plain);
      claim("and no more passes", fewer <= passes);
      if (steps == 75 && k == 2)
        claim("a trained model needs less than half of the passes", 2 * fewer < passes);
    }
  }
  return all_hold ? 0 : 1;
}
