#include <iostream>
#include <mtpx/mtpx.hpp>

int main() {  // learns a rhyme by heart, then writes it again, drafting one byte ahead
  const std::string rhyme = "\nHow much wood would a woodchuck chuck if a woodchuck could chuck wood?";
  const std::vector<std::int32_t> bytes(rhyme.begin(), rhyme.end());  // a byte is a token
  const mtpx::Cpu cpu(1);
  const mtpx::Shape shape{1, static_cast<mtpx::Index>(bytes.size())};
  const mtpx::Batch<mtpx::Cpu> batch{mtpx::Tensor<std::int32_t, mtpx::Cpu>::from(cpu, shape, bytes), {}};
  mtpx::Config config = mtpx::tiny();  // DeepSeek-V3's field names: latent attention, experts, one MTP module
  config.hidden_size = 64;
  mtpx::Transformer<float, mtpx::Cpu> model(cpu, config);
  mtpx::initialize(model, 1);
  mtpx::AdamW<float, mtpx::Cpu> optimizer;
  for (int step = 0; step < 100; ++step) {
    mtpx::Tape tape;
    const auto loss = mtp_loss(model, model(tape, batch), batch, {.lambda = 0.3});
    tape.backward(loss.total);  // gradients are in the parameters, activations are freed
    optimizer.step(model, mtpx::clip_norm(model, 1.0), 3e-3);
  }
  const auto print = [](int byte) { return static_cast<bool>(std::cout.put(static_cast<char>(byte))); };
  const auto run = generate(model, {'\n'}, {.max_tokens = 70, .draft = 1}, print);
  std::cout << '\n' << run.tokens_per_pass() << " bytes per forward pass of the main model\n";
  return run.tokens_per_pass() > 1.5 ? 0 : 1;
}
