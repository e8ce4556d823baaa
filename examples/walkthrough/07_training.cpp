// Training with multi-token prediction: every position learns to predict the next byte and the two after it.

#include "claim.hpp"

#include <mtpx/train/trainer.hpp>

#include <cmath>
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
  config.num_hidden_layers = 1;         // the trunk
  config.num_nextn_predict_layers = 2;  // the depth D: one block each, embedding and head are the trunk's
  config.initializer_range = 0.02;
  mtpx::Transformer<float, Cpu> model(cpu, config);
  mtpx::initialize(model, 1);
  std::cout << config.parameter_count() << " parameters\n";

  // Two documents. A target in another document than its input does not count.
  mtpx::Corpus corpus;
  corpus.add("one fish, two fish, red fish, blue fish. black fish, blue fish, old fish, new fish.\n", "fish");
  corpus.add("row, row, row your boat gently down the stream. merrily, merrily, life is but a dream.\n",
             "boat");
  const mtpx::Batches batches(corpus, {.batch = 4, .seq = 40, .seed = 1337, .depth = 2});

  // What the model computes: depth k has hidden states for the T - k rows whose k-th next token is known.
  {
    mtpx::Tape tape;
    const auto batch = mtpx::upload(cpu, batches.at(0));
    const auto out = model(tape, batch);
    for (std::size_t k = 0; k < out.normed.size(); ++k)
      std::cout << "depth " << k << ": hidden states " << out.normed[k].shape().str() << '\n';
    claim("depth k has k rows fewer", out.normed[2].shape() == mtpx::Shape{4, 40 - 2, 48});
    const auto loss = mtp_loss(model, out, batch);
    const auto value = [](const auto& x) { return x.value().to_host()[0]; };
    float balance = 0;
    for (const auto& one : out.balance) balance += value(one);
    const float sum = value(loss.depths[0].loss) +
                      0.3F / 2 * (value(loss.depths[1].loss) + value(loss.depths[2].loss)) + balance;
    claim("total = main + lambda / D * sum of the depths + balance",
          std::abs(value(loss.total) - sum) < 1e-5F);
  }

  // The loop: forward, backward, clip, AdamW, router biases.
  const mtpx::TrainOptions options{.steps = 120, .lr = {.peak = 5e-3, .warmup = 10}};
  mtpx::Trainer<float, Cpu> trainer(model, options, batches);
  mtpx::StepReport first, last;
  while (trainer.steps_done() < options.steps) {
    last = trainer.step();
    if (last.step == 1) first = last;
    if (last.step % 20 != 1 && last.step != options.steps) continue;
    std::cout << "step " << last.step << ", nats a byte:";
    for (const double loss : last.loss) std::cout << ' ' << loss;
    std::cout << '\n';
  }
  for (std::size_t k = 0; k < 3; ++k) {
    claim(mtpx::cat("depth ", k, " began by guessing among 256 bytes"),
          std::abs(first.loss[k] - std::log(256.0)) < 0.3);
    claim(mtpx::cat("depth ", k, " now knows the text"), last.loss[k] < 0.5);
  }
  return all_hold ? 0 : 1;
}
