#include <mtpx/train/trainer.hpp>

#include "support/model.hpp"
#include "support/reference.hpp"

#include <limits>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/trainer.hpp");

namespace {

using Model = Transformer<double, Device>;

/// Bytes are tokens, so the vocabulary is 256; the text below uses a part of it.
Config byte_config(Index depth) {
  Config c = mixture_config(depth);
  c.vocab_size = 256;
  return c;
}

/// `documents` texts of `length` bytes without a pattern.
Corpus text(Index documents, Index length) {
  Corpus corpus;
  std::uint64_t place = 0;
  for (Index d = 0; d < documents; ++d) {
    std::string one;
    for (Index i = 0; i < length; ++i) one += static_cast<char>('a' + Philox::block(3, 3, ++place)[0] % 16);
    corpus.add(one, "d");
  }
  return corpus;
}

std::map<std::string, Numbers> weights(const Model& model) {
  std::map<std::string, Numbers> all;
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) { all[name] = host(tensor); });
  return all;
}

TrainOptions options(Index accumulation) {
  return {.steps = 10, .accumulation = accumulation, .lr = {.peak = 1e-2, .warmup = 2}};
}

Batches batches(const Corpus& corpus, Index batch) {
  return Batches(corpus, {.batch = batch, .seq = 12, .seed = 1337, .depth = 2});
}

}  // namespace

TEST_CASE("Trainer: a step is forward, loss, backward, clip, AdamW, bias") {
  Config c = byte_config(2);
  TrainOptions o = options(1);
  o.step.clip = 0.5;
  o.step.bias_update_speed = 0.125;
  o.step.loss = {{0.7, {1.0, 0.5}, LossDivisor::all_positions}};
  o.lambda = {0.2, 0.15};
  const Batches data = batches(text(3, 100), 2);

  Model model = random_model(c, 1);
  Trainer<double, Device> trainer(model, o, data);
  Model by_hand = random_model(c, 1);
  AdamW<double, Device> optimizer(o.step.adamw);
  for (Index step = 0; step < 3; ++step) {
    const StepReport report = trainer.step();
    const double lambda = step < 2 ? 0.7 : 0.2;  // 0.15 of 10 steps
    const Batch<Device> batch = upload(device(), data.at(step));
    Tape tape;
    MtpLossOptions of_loss = o.step.loss;
    of_loss.lambda = lambda;
    const auto loss = mtp_loss(by_hand, by_hand(tape, batch), batch, of_loss);
    tape.backward(loss.total);
    const auto clip = clip_norm(by_hand, 0.5);
    optimizer.step(by_hand, clip, o.lr.at(step, o.steps));
    by_hand.update_bias(0.125);

    CHECK(report.step == step + 1);
    CHECK(report.lr == o.lr.at(step, o.steps));
    CHECK(report.lambda == lambda);
    CHECK(report.total == host(loss.total.value())[0]);
    CHECK(report.gradient_norm == host(clip.norm)[0]);
    CHECK(report.gradient_norm > 0.5);
    REQUIRE(report.loss.size() == 3);
    for (std::size_t k = 0; k < 3; ++k) CHECK(report.loss[k] == host(loss.depths[k].loss.value())[0]);
    const auto got = weights(model), want = weights(by_hand);
    for (const auto& [name, numbers] : got) check_bits(numbers, want.at(name), name);
  }
  CHECK(trainer.steps_done() == 3);
}

TEST_CASE("Trainer: router biases move by gamma at most, towards idle experts; 0: they stay") {
  for (const double gamma : {0.25, 0.0}) {
    Model model = random_model(byte_config(1), 1);
    const auto before = weights(model);
    TrainOptions o = options(1);
    o.step.bias_update_speed = gamma;
    Trainer<double, Device> trainer(model, o, batches(text(3, 100), 2));
    trainer.step();
    int moved = 0, biases = 0;
    for (const auto& [name, after] : weights(model)) {
      if (!name.ends_with("bias")) continue;
      for (std::size_t e = 0; e < after.size(); ++e) {
        const double step = after[e] - before.at(name)[e];
        CHECK((step == 0 || std::abs(std::abs(step) - gamma) < 1e-15));
        moved += step != 0 ? 1 : 0;
        ++biases;
      }
    }
    CHECK(biases == 3 * 6);  // two trunk layers and the module
    CHECK((moved > biases / 2) == (gamma > 0));
  }
}

TEST_CASE("Trainer: two micro-batches of 4 are one batch of 8") {
  const Corpus corpus = text(1, 2000);  // no window crosses a document's end: halves have equal counts
  const auto run = [&](Index batch, Index accumulation) {
    Model model = random_model(byte_config(2), 1);
    TrainOptions o = options(accumulation);
    o.step.adamw.eps = 1e-3;  // the first step divides by the gradient's size
    Trainer<double, Device> trainer(model, o, batches(corpus, batch));
    const StepReport report = trainer.step();
    return std::pair(report, weights(model));
  };
  const auto [one, want] = run(8, 1);
  const auto [two, got] = run(4, 2);
  CHECK(two.total == doctest::Approx(one.total).epsilon(1e-13));
  CHECK(two.gradient_norm == doctest::Approx(one.gradient_norm).epsilon(1e-12));
  for (std::size_t k = 0; k < 3; ++k) CHECK(two.loss[k] == doctest::Approx(one.loss[k]).epsilon(1e-13));
  for (const auto& [name, numbers] : got) check_close(numbers, want.at(name), 1e-11, name);
}

TEST_CASE("Trainer: NaN stops before the update; weights, moments, biases and loads stay") {
  Config c = byte_config(1);
  TrainOptions o = options(1);
  const Batches data = batches(text(3, 100), 2);
  Model model = random_model(c, 1), untouched = random_model(c, 1);
  Trainer<double, Device> trainer(model, o, data), reference(untouched, o, data);
  trainer.step();
  reference.step();

  const auto matrix = model.layers[1].self_attn.o_proj.weight.value();
  const Numbers before = matrix.to_host();
  Numbers numbers = before;
  numbers[0] = std::numeric_limits<double>::quiet_NaN();
  matrix.assign(numbers);
  const auto broken = weights(model);
  const std::string says = error_text<NumericError>([&] { trainer.step(); });
  CHECK(says ==
        "[train] step 2: loss nan and gradient norm nan must be finite; the weights are those of the step "
        "before");
  for (const auto& [name, after] : weights(model)) check_bits(after, broken.at(name), name);
  CHECK(trainer.steps_done() == 1);
  matrix.assign(before);
  // As if nothing had happened.
  trainer.step();
  reference.step();
  const auto want = weights(untouched);
  for (const auto& [name, after] : weights(model)) check_bits(after, want.at(name), name);
}

TEST_CASE("Trainer: steps that are queued show what steps one by one show") {
  const Config c = byte_config(2);
  TrainOptions o = options(2);
  o.steps = 70;
  o.lambda.switch_at = 0.5;
  const Batches data = batches(text(3, 100), 2);
  Model model = random_model(c, 1), one_by_one = random_model(c, 1);
  Trainer<double, Device> trainer(model, o, data), reference(one_by_one, o, data);
  CHECK(trainer.reports().empty());
  std::vector<StepReport> reports;
  for (const int count : {1, 2, 67}) {  // more than the device keeps
    for (int i = 0; i < count; ++i) trainer.advance();
    const auto some = trainer.reports();
    CHECK(some.size() == static_cast<std::size_t>(count));
    reports.insert(reports.end(), some.begin(), some.end());
    CHECK(trainer.steps_done() == static_cast<Index>(reports.size()));
  }
  CHECK(trainer.reports().empty());
  for (const StepReport& got : reports) {
    const StepReport want = reference.step();
    CHECK(got.step == want.step);
    CHECK(got.loss == want.loss);
    CHECK(got.total == want.total);
    CHECK(got.lr == want.lr);
    CHECK(got.lambda == want.lambda);
    CHECK(got.gradient_norm == want.gradient_norm);
  }
  CHECK(reports[34].lambda == o.step.loss.lambda);
  CHECK(reports[35].lambda == o.lambda.late);
  const auto want = weights(one_by_one);
  for (const auto& [name, numbers] : weights(model)) check_bits(numbers, want.at(name), name);
}

TEST_CASE("Trainer: steps queued behind one that is not finite change nothing; then it goes on from there") {
  const Config c = byte_config(2);
  TrainOptions o = options(1);
  const Batches data = batches(text(3, 100), 2);
  Model model = random_model(c, 1), untouched = random_model(c, 1);
  Trainer<double, Device> trainer(model, o, data), reference(untouched, o, data);
  for (int i = 0; i < 3; ++i) trainer.advance();
  const auto matrix = model.mtp[1].block->self_attn.o_proj.weight.value();
  const Numbers before = matrix.to_host();
  Numbers numbers = before;
  numbers[0] = std::numeric_limits<double>::infinity();
  matrix.assign(numbers);
  for (int i = 0; i < 4; ++i) trainer.advance();
  CHECK(trainer.steps_done() == 7);
  CHECK(error_text<NumericError>([&] { trainer.reports(); }).starts_with("[train] step 4: loss "));
  CHECK(trainer.steps_done() == 3);
  const auto finished = trainer.reports();
  REQUIRE(finished.size() == 3);
  for (const StepReport& got : finished) CHECK(got.total == reference.step().total);
  matrix.assign(before);
  for (int i = 0; i < 2; ++i) {
    const StepReport got = trainer.step(), want = reference.step();
    CHECK(got.step == want.step);
    CHECK(got.total == want.total);
  }
  const auto want = weights(untouched);
  for (const auto& [name, after] : weights(model)) check_bits(after, want.at(name), name);
}

TEST_CASE("Trainer: switches of the model that are turned between steps count from the next step on") {
  const Config c = byte_config(2);
  const TrainOptions o = options(1);
  const Batches data = batches(text(3, 100), 2);
  Model model = random_model(c, 1);
  Trainer<double, Device> trainer(model, o, data);
  for (int i = 0; i < 3; ++i) trainer.step();
  model.activation_checkpointing = true;  // changes no bit
  for (int i = 0; i < 3; ++i) trainer.step();
  const auto main = weights(model);
  model.freeze_main();
  for (int i = 0; i < 3; ++i) trainer.step();
  for (const auto& [name, after] : weights(model)) {
    const bool depth = name.starts_with("model.layers.3.") || name.starts_with("model.layers.4.");
    if (!depth) check_bits(after, main.at(name), name);
    if (name.ends_with("o_proj.weight")) CHECK((after != main.at(name)) == depth);
  }
}

TEST_CASE(
    "Trainer: a warm loop asks for no memory, and two trainers of one device do not disturb each other") {
  const Config c = byte_config(1);
  const TrainOptions o = options(2);
  const Batches data = batches(text(3, 100), 2);
  std::map<std::string, Numbers> want;
  {
    Model model = random_model(c, 1);
    Trainer<double, Device> trainer(model, o, data);
    for (int i = 0; i < 6; ++i) trainer.step();
    want = weights(model);
  }
  Model first = random_model(c, 1), second = random_model(c, 1);
  Trainer<double, Device> a(first, o, data), b(second, o, data);
  for (int i = 0; i < 3; ++i) a.advance();
  for (int i = 0; i < 3; ++i) b.advance();
  a.reports();
  b.reports();
  const auto asked_of = [](const auto& on) {
    if constexpr (requires { on.allocations(); })
      return on.allocations();
    else
      return on.pool().allocations();
  };
  const auto asked = [&] { return asked_of(device()); };
  const std::size_t warm = asked();
  for (int i = 0; i < 3; ++i) {
    a.advance();
    b.advance();
  }
  a.reports();
  b.reports();
  CHECK(asked() == warm);
  for (const auto& [name, numbers] : want) {
    check_bits(weights(first).at(name), numbers, name);
    check_bits(weights(second).at(name), numbers, name);
  }
}

TEST_CASE("Trainer: text without a target, documents of one token: loss 0, finite weights") {
  Config c = byte_config(2);
  c.aux_loss_alpha = 0;
  Model model = random_model(c, 1);
  TrainOptions o = options(1);
  Trainer<double, Device> trainer(model, o, batches(text(40, 1), 2));
  for (int step = 0; step < 2; ++step) {
    const StepReport report = trainer.step();
    CHECK(report.loss == std::vector<double>{0, 0, 0});
    CHECK(report.total == 0);
    CHECK(report.gradient_norm == 0);
  }
  for (const auto& entry : weights(model)) CHECK_MESSAGE(all_finite(entry.second), entry.first);
}

TEST_CASE("Trainer: attention inside documents on request") {
  Config c = byte_config(1);
  const Corpus corpus = text(30, 9);
  const auto loss = [&](bool mask) {
    Model model = random_model(c, 1);
    TrainOptions o = options(1);
    o.mask_documents = mask;
    return Trainer<double, Device>(model, o, batches(corpus, 2)).step().loss[0];
  };
  CHECK(std::abs(loss(true) - loss(false)) > 1e-6);
}

TEST_CASE("Trainer: equal states go on equally, at any number of threads") {
  Config c = byte_config(2);
  const Corpus corpus = text(5, 200);
  const auto run = [&] {
    Model model = random_model(c, 1);
    Trainer<double, Device> trainer(model, options(2), batches(corpus, 4));
    for (int step = 0; step < 3; ++step) trainer.step();
    return weights(model);
  };
  const auto one = run(), again = run();
  for (const auto& [name, numbers] : one) check_bits(again.at(name), numbers, name);
  other_ways([&] {
    const auto other = run();
    for (const auto& [name, numbers] : one) check_bits(other.at(name), numbers, name);
  });
}

TEST_CASE("Trainer: options that make no sense are named") {
  Model model = random_model(byte_config(1), 1);
  const Corpus corpus = text(3, 100);
  const auto says = [&](const auto& change) {
    TrainOptions o = options(1);
    change(o);
    return error_text<ConfigError>([&] { Trainer<double, Device>(model, o, batches(corpus, 2)); });
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK(says([](TrainOptions&) {}) == "");
  CHECK(says([](TrainOptions& o) { o.lr.peak = 0; }) == "");
  CHECK(says([](TrainOptions& o) { o.steps = 0; }) == "[train] steps = 0: must be at least 1");
  CHECK(says([](TrainOptions& o) { o.accumulation = 0; }) == "[train] accumulation = 0: must be at least 1");
  CHECK(says([](TrainOptions& o) { o.lr.peak = -1; }) == "[train] lr = -1: must be 0 or positive");
  CHECK(says([=](TrainOptions& o) { o.lr.peak = infinity; }) == "[train] lr = inf: must be 0 or positive");
  CHECK(says([](TrainOptions& o) { o.step.clip = -1; }) == "[train] clip = -1: must be 0 (none) or positive");
  const auto says_of_seq = [&](Index seq) {
    return error_text<ConfigError>(
        [&] { Trainer<double, Device>(model, options(1), Batches(corpus, {.batch = 2, .seq = seq})); });
  };
  CHECK(says_of_seq(64) == "");
  CHECK(says_of_seq(65) == "[train] seq = 65: must not exceed max_position_embeddings = 64");
  CHECK(says_of_seq(2) == "");
  CHECK(says_of_seq(1) == "[train] seq = 1: must be larger than num_nextn_predict_layers = 1");
}

TEST_CASE("TrainStep: batches that are none, or of several shapes") {
  Model model = random_model(byte_config(1), 1);
  const auto says = [&](const std::vector<Batch<Device>>& inputs) {
    return error_text<ShapeError>([&] { TrainStep<double, Device>(model, inputs, {}); });
  };
  CHECK(says({random_batch(2, 6, 256), random_batch(2, 6, 256)}) == "");
  CHECK(says({}) == "[train] a step takes at least one batch");
  CHECK(says({random_batch(2, 6, 256), random_batch(2, 7, 256)}) ==
        "[train] batches of a step have one shape\n  first: [2, 7]\n  another: [2, 8]");
}

TEST_CASE("Trainer: weights, state by name and the count of steps are all that goes on to the same bits") {
  const auto run = [](auto number) {
    using T = decltype(number);
    const Config c = byte_config(2);
    const std::vector<Batch<Device>> inputs{random_batch(2, 12, 256)};
    auto model = random_model<T>(c, 1), other = random_model<T>(c, 2);
    StepOptions o;
    o.loss.lambda = 0.5;
    TrainStep<T, Device> step(model, inputs, o), resumed(other, inputs, o);
    for (int i = 0; i < 3; ++i) step(1e-2);
    const auto numbers_of = [](auto& of, auto&& each) {
      std::map<std::string, Numbers> all;
      each(of, [&](const std::string& name, const auto& tensor) { all[name] = host(tensor); });
      return all;
    };
    const auto assign = [](const Numbers& numbers, const auto& tensor) {
      using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
      std::vector<N> values;
      for (const double x : numbers) values.push_back(static_cast<N>(static_cast<acc_t<N>>(x)));
      tensor.assign(values);
    };
    const auto tensors = [](auto& of, const auto& visit) { for_each_tensor(of, visit); };
    const auto saved = numbers_of(model, tensors);
    const auto state =
        numbers_of(model, [&](auto& of, const auto& visit) { step.optimizer().for_each_state(of, visit); });
    for_each_tensor(other,
                    [&](const std::string& name, const auto& tensor) { assign(saved.at(name), tensor); });
    resumed.optimizer().for_each_state(
        other, [&](const std::string& name, const auto& tensor) { assign(state.at(name), tensor); });
    resumed.optimizer().set_steps(step.optimizer().steps());
    for (int i = 0; i < 3; ++i) {
      step(1e-2);
      resumed(1e-2);
      CHECK(host(resumed.losses()) == host(step.losses()));
    }
    check_bits(numbers_of(other, tensors), numbers_of(model, tensors));
    CHECK(state.contains("model.layers.1.mlp.experts.5.gate_proj.weight.exp_avg"));
    CHECK(state.contains("model.layers.4.eh_proj.weight.exp_avg_sq"));
    CHECK(state.contains("lm_head.weight.master") == std::is_same_v<T, bf16>);
  };
  run(double());
  run(bf16());
}

TEST_CASE("evaluate: losses, accuracy and agreement over all rows, against a loop") {
  Config c = byte_config(2);
  const Model model = random_model(c, 1);
  // Documents of 9 bytes: targets across their ends do not count. The last batch has fewer rows.
  for (const bool mask : {false, true}) {
    const ValidationWindows windows(text(30, 9), {4, 12, 7, 2});
    const Evaluation got = evaluate(model, windows, mask);
    REQUIRE(windows.size() == 2);
    REQUIRE(got.rows.size() == 3);
    for (Index k = 0; k <= 2; ++k) {
      double loss = 0, right = 0, same = 0;
      Index rows = 0;
      for (Index w = 0; w < windows.size(); ++w) {
        const HostBatch window = windows.at(w);
        Tape tape(Mode::inference);
        const auto out = model(tape, upload(device(), window, mask));
        const auto logits = [&](Index depth) {
          return reference::linear(host(nth(out.normed, depth).value()), host(model.lm_head->weight.value()),
                                   8, 256);
        };
        const Numbers z = logits(k), main = logits(0);
        const auto best = [](const Numbers& x, Index row) {
          return std::max_element(x.begin() + row * 256, x.begin() + (row + 1) * 256) - x.begin() - row * 256;
        };
        for (Index b = 0; b < window.batch; ++b) {
          for (Index i = 0; i + k < 12; ++i) {
            if (window.position(b, i + k + 1) != window.position(b, i) + k + 1) continue;
            const Index row = b * (12 - k) + i;
            double total = 0;
            for (Index v = 0; v < 256; ++v) total += std::exp(nth(z, row * 256 + v));
            loss += std::log(total) - nth(z, row * 256 + window.token(b, i + k + 1));
            right += best(z, row) == window.token(b, i + k + 1) ? 1 : 0;
            same += best(z, row) == best(main, b * 12 + i + k) ? 1 : 0;
            ++rows;
          }
        }
      }
      const auto n = static_cast<double>(rows);
      CHECK(nth(got.rows, k) == rows);
      CHECK(nth(got.loss, k) == doctest::Approx(loss / n).epsilon(1e-12));
      CHECK(nth(got.accuracy, k) == right / n);
      CHECK(nth(got.agreement, k) == same / n);
    }
    CHECK(got.agreement[0] == 1);
    CHECK(got.rows[0] > got.rows[2]);
    CHECK(got.bits_per_byte() == doctest::Approx(got.loss[0] / std::log(2.0)).epsilon(1e-15));
    CHECK(!got.empty());
  }
}

TEST_CASE("evaluate: leaves loads and gradients alone; nothing to validate on is no error") {
  Model model = random_model(byte_config(2), 1);
  evaluate(model, ValidationWindows(text(30, 9), {4, 12, 7, 2}));
  CHECK(host(model.layers[1].moe->load) == Numbers(6, 0.0));
  CHECK(host(model.mtp[0].block->moe->load) == Numbers(6, 0.0));
  for (const auto& entry : gradients(model)) CHECK_MESSAGE(entry.second.empty(), entry.first);
  const Evaluation none = evaluate(model, ValidationWindows(text(1, 5), {4, 12, 7, 2}));
  CHECK(none.empty());
  CHECK(none.bits_per_byte() == 0);
}

TEST_SUITE_END();
