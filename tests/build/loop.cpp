// A training loop of a program of one's own, header-only: check_loop.sh looks at what its object holds.

#include <mtpx/mtpx.hpp>

#include <cstdint>
#include <vector>

double loop(const std::vector<std::int32_t>& ids, int steps) {
  const mtpx::Cpu cpu(1);
  const mtpx::Shape shape{1, static_cast<mtpx::Index>(ids.size())};
  const mtpx::Batch<mtpx::Cpu> batch{mtpx::Tensor<std::int32_t, mtpx::Cpu>::from(cpu, shape, ids), {}};
  mtpx::Transformer<float, mtpx::Cpu> model(cpu, mtpx::tiny());
  mtpx::initialize(model, 1);
  mtpx::AdamW<float, mtpx::Cpu> optimizer;
  double last = 0;
  for (int step = 0; step < steps; ++step) {
    mtpx::Tape tape;
    const auto loss = mtp_loss(model, model(tape, batch), batch, {.lambda = 0.3});
    tape.backward(loss.total);
    optimizer.step(model, mtpx::clip_norm(model, 1.0), 3e-3);
    last = static_cast<double>(loss.total.item());
  }
  return last;
}
