// A drafter of one's own for a finished model: one block for all depths, taught by the model to say what the
// model will say. Text that it drafts is the model's, byte for byte.

#include <mtpx/mtpx.hpp>

#include <iostream>
#include <iterator>
#include <string>
#include <vector>

using namespace mtpx;
using Model = Transformer<float, Cpu>;
using Value = Var<float, Cpu>;

/// h^k = h^{k-1} + block(M [norm(Emb(t_{i+k})) ; norm(h^{k-1})]), and the model's own head on norm(h^k).
struct Drafter {
  using value_type = float;
  using device_type = Cpu;

  const Model& model;  // frozen
  Config config = model.config;
  MtpDesign design{.shares_weights = true};  // it chains, reads tokens and attends
  MtpInput<float, Cpu> input{device(), config.hidden_size, config.rms_norm_eps, config.mtp_concat};
  Block<float, Cpu> block{device(), model.block_options(0)};
  RmsNorm<float, Cpu> norm{device(), config.hidden_size, config.rms_norm_eps};

  const Cpu& device() const { return model.device(); }
  Weight<float, Cpu> head(Index) const { return model.head(0); }

  /// Depth k, over the windows of a batch or over rows against their cache: `way` knows. Depths are detached:
  /// each learns from its own loss alone.
  Hidden<float, Cpu> depth(Tape& tape, Index k, const Value& h, auto& way) const {
    const Value from = tape.constant(way.front(h, k).value());
    const Value token = embedding<float, Cpu>(tape, way.tokens(k), model.embed_tokens);
    const Value y = from + way.run(0, block, input(from, token)).y;
    return {y, norm(y)};
  }

  auto decode(Tape& tape, const auto&... pass) const { return model.decode(tape, pass...); }
  auto decode_mtp(Tape& tape, Index k, const Value& h, const auto& ids, const auto& rows, auto& cache) const {
    CachedRows<float, Cpu> way{ids, rows, {&cache, 1}, 0, model.rope_table};
    return depth(tape, k, h, way);
  }

  static void members(auto& self, auto&& visit) {
    visit("input", self.input), visit("block", self.block), visit("norm", self.norm);
  }
};

/// sum over depths of KL(model at i + k || depth k at i): what both say about token i + k + 1.
Value distil(Tape& tape, const Drafter& drafter, const Batch<Cpu>& batch) {
  const Model& model = drafter.model;
  const Index b = batch.batch(), t = batch.time(), v = model.config.vocab_size;
  Windows<float, Cpu> way = model.windows(batch);
  Value h = model(tape, batch, 0).normed[0], total;
  const auto taught = log_softmax(linear(h, model.head(0))).value().reshape({b, t * v});
  for (Index k = 1; k <= drafter.config.num_nextn_predict_layers; ++k) {
    const auto ahead = contiguous(taught.narrow_last(k * v, (t - k) * v)).reshape({b, t - k, v});
    const auto out = drafter.depth(tape, k, h, way);
    const Value loss = kl(tape.constant(ahead), log_softmax(linear(out.normed, model.head(0))));
    total = k == 1 ? loss : total + loss;
    h = out.carried;
  }
  return total;
}

int main() {
  const Cpu cpu;
  Config config = nano();
  config.vocab_size = 256;
  config.num_nextn_predict_layers = 0;
  Model model(cpu, config);
  initialize(model, 1);
  const std::string text =
      "one fish, two fish, red fish, blue fish. black fish, blue fish, old fish, new fish.\n";
  const std::vector<std::int32_t> bytes(text.begin(), text.end());
  const Batch<Cpu> batch(Tensor<std::int32_t, Cpu>::from(cpu, {1, std::ssize(bytes)}, bytes));
  TrainStep<float, Cpu> train(model, {batch}, {});
  for (int step = 0; step < 120; ++step) train(5e-3);
  model.freeze_main();

  Drafter drafter{model};
  drafter.config.num_nextn_predict_layers = 2;  // a third draft runs the last once more
  initialize(drafter, 2, config.initializer_range);
  AdamW<float, Cpu> adamw;
  for (int step = 0; step < 80; ++step) {
    Tape tape;
    const Value loss = distil(tape, drafter, batch);
    tape.backward(loss);
    adamw.step(drafter, 5e-3, 1.0);
  }

  for (const double temperature : {0.0, 1.5}) {
    GenerateOptions options{.max_tokens = 100, .draft = 0, .sampling = {.temperature = temperature}};
    std::string plain, drafted;
    generate(model, {'\n'}, options, [&](int byte) { plain += static_cast<char>(byte); });
    options.draft = 4;
    const auto run =
        generate(drafter, {'\n'}, options, [&](int byte) { drafted += static_cast<char>(byte); });
    std::cout << "of first drafts stood " << run.acceptance(0) << ", of text:\n" << drafted << '\n';
    if (drafted != plain || run.acceptance(0) < 0.5) return 1;
  }
}
