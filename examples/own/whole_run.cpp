// What `mtpx train` does, in a program of one's own: text, model, schedule, validation, checkpoints, going on
// after any end, Ctrl-C, figures for TensorBoard, a sample, a model folder.
// Usage: mtpx_whole_run FOLDER [STEPS]

#include <mtpx/io/event_file.hpp>
#include <mtpx/io/token_file.hpp>
#include <mtpx/io/train_run.hpp>
#include <mtpx/mtpx.hpp>

#include <csignal>
#include <iostream>
#include <string>

namespace {
volatile std::sig_atomic_t stopped = 0;
void stop(int) { stopped = 1; }
}  // namespace

int main(int argc, char** argv) try {
  const std::filesystem::path folder = argc > 1 ? argv[1] : "whole_run";
  const mtpx::Cpu cpu;
  mtpx::Config config = mtpx::nano();
  std::string verses;  // read_corpus reads files
  for (int i = 0; i < 400; ++i) verses += mtpx::cat("And the ", i, " sons of the house went up together.\n");
  const mtpx::CorpusSplit text = mtpx::Corpus::from_text(verses).split(0.1);
  const mtpx::Index depth = config.num_nextn_predict_layers;
  const mtpx::Batches batches(text.train, {.batch = 4, .seq = 32, .seed = 1, .depth = depth});
  const mtpx::ValidationWindows held_out(text.validation, {.batch = 4, .seq = 32, .depth = depth});
  mtpx::Transformer<float, mtpx::Cpu> model(cpu, config);
  mtpx::initialize(model, 1);
  mtpx::TrainOptions options{.steps = argc > 2 ? std::stoll(argv[2]) : 40, .lr = {.peak = 5e-3, .warmup = 4}};
  options.step.loss = mtpx::published_weights(config.design());
  mtpx::Trainer trainer(model, options, [&](mtpx::Index n) { return batches.at(n); });

  const mtpx::TrainRun run{
      .folder = folder,
      .save_every = 10,
      .eval_every = 20,
      .facts = {{"steps", options.steps}, {"text", mtpx::IdsFingerprint::of(text.train)}}};
  std::filesystem::create_directories(folder);
  mtpx::EventFile events(mtpx::EventFile::name_in(folder));
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, stop);
  mtpx::TrainCallbacks callbacks;
  callbacks.on_step = [&](const mtpx::StepReport& report) {
    events.add(report.step, "loss", report.total);
    return stopped == 0;
  };
  callbacks.on_eval = [&](mtpx::Index step) {
    const mtpx::Evaluation e = mtpx::evaluate(model, held_out);
    std::cout << "step " << step << ": " << e.bits_per_byte()
              << " bits per byte; depth 1 equals the main head's choice in " << 100 * e.agreement[1]
              << " %\n";
  };
  callbacks.on_save = [](mtpx::Index step) { std::cout << "saving step " << step << '\n'; };
  callbacks.on_notice = [](const std::string& notice) { std::cout << notice << '\n'; };
  if (!mtpx::train_and_save(trainer, model, run, callbacks)) return 130;
  mtpx::save_model(folder, model);
  mtpx::generate(model, {'\n'}, {.max_tokens = 60, .draft = 1},
                 [](int byte) { return static_cast<bool>(std::cout.put(static_cast<char>(byte))); });
  std::cout << '\n';
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
