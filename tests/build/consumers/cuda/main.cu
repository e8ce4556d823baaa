// A program of one .cu file: it gets the GPU's kernels inline and links nothing of mtpx.
#include <mtpx/core/cuda.hpp>
#include <mtpx/mtpx.hpp>

#include <cstdio>

int main() {
  mtpx::Config config = mtpx::tiny();
  std::string why;
  if (!mtpx::Cuda::available(0, &why)) {
    std::printf("no GPU: %s\n", why.c_str());
    return 0;
  }
  const mtpx::Cuda gpu;
  mtpx::Transformer<float, mtpx::Cuda> model(gpu, config);
  mtpx::initialize(model, 1);
  std::vector<std::int32_t> ids(65, 7);
  const mtpx::Batch<mtpx::Cuda> batch{
      mtpx::Tensor<std::int32_t, mtpx::Cuda>::from(gpu, {1, 65}, ids), {}, false};
  mtpx::AdamW<float, mtpx::Cuda> optimizer;
  float first = 0, last = 0;
  for (int step = 0; step < 20; ++step) {
    mtpx::Tape tape;
    const auto loss = mtp_loss(model, model(tape, batch), batch, {.lambda = 0.3});
    tape.backward(loss.total);
    optimizer.step(model, mtpx::clip_norm(model, 1.0), 1e-3);
    last = loss.total.value().to_host()[0];
    if (step == 0) first = last;
  }
  std::printf("loss %.3f, after 20 steps %.3f\n", static_cast<double>(first), static_cast<double>(last));
  return last < first ? 0 : 1;
}
