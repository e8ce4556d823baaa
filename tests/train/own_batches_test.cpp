// A run's batches, learning rates and end as a program decides them.

#include <mtpx/train/trainer.hpp>

#include "support/model.hpp"
#include "support/reference.hpp"

#include <map>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/trainer.hpp: a program's own");

namespace {

Config config_of_bytes(Index depth) {
  Config c = mixture_config(depth);
  c.vocab_size = 256;
  return c;
}

TrainOptions ten_steps() { return {.steps = 10, .lr = {.peak = 1e-2, .warmup = 2}}; }

/// Of one document of `length` bytes without a pattern.
Batches windows_of(Index length) {
  std::string text;
  for (Index i = 0; i < length; ++i)
    text += static_cast<char>('a' + Philox::block(3, 3, static_cast<std::uint64_t>(i))[0] % 16);
  return Batches(Corpus::from_text(text), {.batch = 2, .seq = 12, .seed = 1337, .depth = 2});
}

}  // namespace

TEST_CASE("Trainer: batches of one's own, with labels that do not count") {
  Transformer<double, Device> model = random_model(config_of_bytes(2), 1);
  const HostBatch whole = windows_of(400).at(0);
  HostBatch masked = whole;
  for (std::size_t i = 0; i < whole.tokens.size(); ++i) masked.counts.push_back(i % 3 == 0 ? 0 : 1);
  const auto own = [&](Index) { return masked; };
  Trainer<double, Device> trainer(model, ten_steps(), own);

  // By hand: the mean over the rows whose label counts, of the losses without a mask.
  Tape tape(Mode::inference);
  const Batch<Device> batch = upload(device(), whole);
  const auto loss = mtp_loss(model, model(tape, batch), batch);
  Index rows_of_main = 0;
  std::vector<double> want;
  for (Index k = 0; k <= 2; ++k) {
    const Numbers row_loss = host(nth(loss.depths, k).row_loss);
    double sum = 0;
    Index rows = 0;
    for (Index b = 0; b < 2; ++b) {
      for (Index i = 0; i + k < 12; ++i) {
        if (!whole.is_label(b, i, k + 1) || (b * 13 + i + k + 1) % 3 == 0) continue;
        sum += nth(row_loss, b * (12 - k) + i);
        ++rows;
      }
    }
    want.push_back(sum / static_cast<double>(rows));
    if (k == 0) rows_of_main = rows;
  }
  struct One {
    HostBatch batch;
    Index size() const { return 1; }
    HostBatch at(Index) const { return batch; }
  };
  const Evaluation seen = evaluate(model, One{masked});
  CHECK(seen.rows[0] == rows_of_main);
  CHECK(seen.loss[0] == doctest::Approx(want[0]).epsilon(1e-12));
  const StepReport report = trainer.step();
  for (std::size_t k = 0; k < 3; ++k) CHECK(report.loss[k] == doctest::Approx(want[k]).epsilon(1e-12));

  // What does not fit is refused before it reaches the device.
  const auto says = [&](const auto& change) {
    HostBatch other = masked;
    change(other);
    Transformer<double, Device> fresh = random_model(config_of_bytes(2), 1);
    return error_text<ConfigError>([&] {
      Trainer<double, Device> first(fresh, ten_steps(), [&](Index n) { return n == 0 ? masked : other; });
      first.step();
      first.step();
    });
  };
  CHECK(says([](HostBatch&) {}) == "");
  CHECK(says([](HostBatch& b) { b.tokens[3] = 256; }) ==
        "[data] a batch has the id 256, outside the vocabulary of 256");
  CHECK(says([](HostBatch& b) { b.tokens.pop_back(); }) ==
        "[data] a batch of 2 windows of 12 + 1 tokens has 25 tokens, 26 positions and 26 counts");
  CHECK(says([](HostBatch& b) { b.counts.clear(); }) ==
        "[data] micro-batch 1 is not of the first one's shape, or has no positions or counts where it has");
}

TEST_CASE("Trainer: a schedule of one's own, and a run that its caller ends") {
  Transformer<double, Device> model = random_model(config_of_bytes(1), 1);
  TrainOptions o = ten_steps();
  o.schedule = [](Index step, Index steps) { return 1e-3 * static_cast<double>(steps - step); };
  Trainer<double, Device> trainer(model, o, windows_of(300));
  std::vector<double> rates;
  const auto until_four = [&](const StepReport& report) {
    rates.push_back(report.lr);
    return report.step < 4;
  };
  CHECK(!trainer.run(until_four));
  CHECK(trainer.steps_done() == 4);
  CHECK(rates == std::vector<double>{1e-3 * 10, 1e-3 * 9, 1e-3 * 8, 1e-3 * 7});
  Index seen = 4;
  CHECK(trainer.run([&](const StepReport& report) { seen += report.step == seen + 1; }, 4));  // late, but all
  CHECK((trainer.steps_done() == 10 && seen == 10));

  o.schedule = [](Index, Index) { return std::nan(""); };
  Trainer<double, Device> wrong(model, o, windows_of(300));
  CHECK(error_text<ConfigError>([&] { wrong.step(); }) ==
        "[train] step 1: the schedule gives nan, a learning rate must be 0 or positive");
}

TEST_CASE("Trainer: goes on from the state of another, to the same bits") {
  Transformer<double, Device> whole = random_model(config_of_bytes(1), 1),
                              parted = random_model(config_of_bytes(1), 1);
  Trainer<double, Device> straight(whole, ten_steps(), windows_of(300));
  for (int step = 0; step < 6; ++step) straight.step();

  Trainer<double, Device> first(parted, ten_steps(), windows_of(300));
  for (int step = 0; step < 4; ++step) first.step();
  Transformer<double, Device> model =
      random_model(config_of_bytes(1), 2);  // other weights: all of them are loaded
  std::map<std::string, Numbers> saved;
  for_each_tensor(parted, [&](const std::string& name, const auto& tensor) { saved[name] = host(tensor); });
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) { tensor.assign(saved.at(name)); });
  Trainer<double, Device> second(model, ten_steps(), windows_of(300));
  first.optimizer().for_each_state(
      parted, [&](const std::string& name, const auto& tensor) { saved[name] = host(tensor); });
  second.optimizer().for_each_state(
      model, [&](const std::string& name, const auto& tensor) { tensor.assign(saved.at(name)); });
  second.resume(4);
  for (int step = 4; step < 6; ++step) CHECK(second.step().step == step + 1);
  CHECK(second.steps_done() == 6);

  std::map<std::string, Numbers> want;
  for_each_tensor(whole, [&](const std::string& name, const auto& tensor) { want[name] = host(tensor); });
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    check_bits(host(tensor), want.at(name), name);
  });
}

TEST_SUITE_END();
