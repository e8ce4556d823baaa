// Ids of one's own: padded samples, a run with a schedule, a group of parameters and a hook, saved half-way
// and gone on with to the same bytes; then text with a stop sequence, log-probabilities and a hook.

#include <mtpx/io/tensor_file.hpp>
#include <mtpx/mtpx.hpp>

#include <filesystem>
#include <iostream>
#include <limits>
#include <span>
#include <string>
#include <vector>

using namespace mtpx;
using Model = Transformer<float, Cpu>;

constexpr std::int32_t padding = 999;

std::int32_t word(Index i) { return static_cast<std::int32_t>(i % 20 * 40 + 7); }

/// Micro-batch n: eight samples of 6 to 12 ids. Neither a sample's first id nor padding is to be learnt.
HostBatch collate(Index n) {
  HostBatch batch;
  batch.batch = 8, batch.seq = 11;
  for (Index sample = 8 * n; sample < 8 * n + 8; ++sample) {
    for (Index i = 0; i <= batch.seq; ++i) {
      const bool inside = i < 6 + sample % 7;
      batch.tokens.push_back(inside ? word(sample * sample + i) : padding);
      batch.counts.push_back(inside && i > 0);
    }
  }
  return batch;
}

/// All weights of a model, byte for byte.
std::string bytes(const Model& model) {
  std::string all;
  for_each_tensor(model, [&](const std::string&, const auto& tensor) {
    all.append(reinterpret_cast<const char*>(tensor.data()), tensor.bytes());
  });
  return all;
}

int main() {
  const Cpu cpu;
  Config config = nano();
  config.vocab_size = 1000;
  Model straight(cpu, config), stopped(cpu, config), resumed(cpu, config);
  initialize(straight, 1), initialize(stopped, 1);

  TrainOptions options{.steps = 60};
  options.schedule = [](Index step, Index) { return step < 40 ? 5e-3 : 1e-3; };
  options.step.adamw.group = [](const std::string& name, AdamWGroup usual) {
    return name == "model.embed_tokens.weight" ? AdamWGroup{.rate = 2, .weight_decay = 0} : usual;
  };
  Trainer(straight, options, collate).run([](const StepReport& report) {
    if (report.step % 20 == 0) std::cout << "step " << report.step << ": " << report.total << '\n';
  });

  Trainer first(stopped, options, collate);
  first.run([](const StepReport& report) { return report.step < 30; });
  save_module("own_ids.model", stopped);
  save_optimizer("own_ids.adamw", first.optimizer(), stopped);

  load_module("own_ids.model", resumed);
  Trainer second(resumed, options, collate);
  load_optimizer("own_ids.adamw", second.optimizer(), resumed);
  second.resume(first.steps_done());
  second.run([](const StepReport&) {});
  const bool same = bytes(resumed) == bytes(straight);
  std::cout << "resumed after 30 of 60 steps: " << (same ? "the same bytes\n" : "OTHER bytes\n");
  for (const char* file : {"own_ids.model", "own_ids.adamw"}) std::filesystem::remove(file);

  GenerateOptions how{.stop_sequences = {{word(9), word(10)}}, .log_probabilities = true};
  how.logits_hook = [](std::span<const std::int32_t>, std::span<double> logits) {
    logits[padding] = -std::numeric_limits<double>::infinity();
  };
  std::vector<std::int32_t> text;
  generate(resumed, {word(4)}, how, [&](std::int32_t id, double log_probability) {
    std::cout << id << " (" << log_probability << ") ";
    text.push_back(id);
  });
  return same && text == std::vector{word(5), word(6), word(7), word(8), word(9), word(10)} ? 0 : 1;
}
