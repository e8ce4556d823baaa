// Several handles side by side in one process, of one GPU and of two: each gives what it gives alone, and
// none changes which GPU is current.

#include <mtpx/decode/speculator.hpp>
#include <mtpx/train/trainer.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("two devices");

namespace {

int current_gpu() {
  int ordinal = -1;
  REQUIRE(cudaGetDevice(&ordinal) == cudaSuccess);
  return ordinal;
}
void make_current(int ordinal) { REQUIRE(cudaSetDevice(ordinal) == cudaSuccess); }

bool two_gpus() {
  int count = 0;
  REQUIRE(cudaGetDeviceCount(&count) == cudaSuccess);
  if (count < 2) MESSAGE("skipped: needs two GPUs, and cudaGetDeviceCount says ", count);
  return count >= 2;
}

/// The widths that a GPU's fused and fast kernels take, in bf16.
Config config() {
  Config c = mixture_config(2);
  c.vocab_size = 256;
  c.hidden_size = 64;
  c.intermediate_size = 96;
  c.moe_intermediate_size = 32;
  c.q_lora_rank = 32;
  c.kv_lora_rank = 48;
  c.qk_nope_head_dim = 32;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 32;
  return c;
}

template <typename T>
Transformer<T, Cuda> model_on(const Cuda& device) {
  Transformer<T, Cuda> model(device, config());
  randomize(model, 1, 0.1);
  return model;
}

/// A few steps of a training run: the last of them are replayed from a record.
template <typename T>
class Run {
 public:
  static constexpr int steps = 6;

  explicit Run(const Cuda& device) : model_(model_on<T>(device)), trainer_(model_, options(), text()) {}

  void queue_step() { trainer_.advance(); }
  Numbers losses() {
    Numbers all;
    for (const StepReport& report : trainer_.reports()) {
      all.insert(all.end(), report.loss.begin(), report.loss.end());
      all.push_back(report.gradient_norm);
    }
    return all;
  }

  static Numbers alone(const Cuda& device) {
    Run run(device);
    for (int i = 0; i < steps; ++i) run.queue_step();
    return run.losses();
  }

 private:
  static TrainOptions options() {
    TrainOptions o;
    o.steps = steps;
    return o;
  }
  static Batches text() {
    std::string all;
    for (std::uint64_t i = 0; i < 3000; ++i) all += static_cast<char>('a' + Philox::block(3, 3, i)[0] % 16);
    return Batches(Corpus::from_text(all), {.batch = 4, .seq = 24, .seed = 1337, .depth = 2});
  }

  Transformer<T, Cuda> model_;
  Trainer<T, Cuda> trainer_;
};

/// A text that is decoded round by round, with drafts.
template <typename T>
class Text {
 public:
  static constexpr int rounds = 12;

  explicit Text(const Cuda& device) : model_(model_on<T>(device)), speculator_(model_, options()) {
    speculator_.add(std::vector<std::int32_t>{3, 1, 4, 1, 5, 9, 2, 6}, 7);
  }
  void step() { speculator_.step(); }
  const std::vector<std::int32_t>& tokens() const { return speculator_.tokens(); }

  static std::vector<std::int32_t> alone(const Cuda& device) {
    Text text(device);
    for (int i = 0; i < rounds; ++i) text.step();
    return text.tokens();
  }

 private:
  static GenerateOptions options() {
    GenerateOptions o;
    o.draft = 2;
    o.sampling.temperature = 0.8;
    return o;
  }

  Transformer<T, Cuda> model_;
  Speculator<T, Cuda> speculator_;
};

/// Whatever two handles do in turns is what each does alone, whichever GPU is current.
template <typename T>
void check_in_turns(const Cuda& a, const Cuda& b) {
  const Numbers losses_a = Run<T>::alone(Cuda(a.ordinal())), losses_b = Run<T>::alone(Cuda(b.ordinal()));
  const auto text_a = Text<T>::alone(Cuda(a.ordinal())), text_b = Text<T>::alone(Cuda(b.ordinal()));
  const int before = current_gpu();
  for (const int current : {a.ordinal(), b.ordinal()}) {
    CAPTURE(current);
    make_current(current);
    {
      Run<T> first(a), second(b);
      for (int i = 0; i < Run<T>::steps; ++i) {
        first.queue_step();
        CHECK(current_gpu() == current);
        second.queue_step();
        CHECK(current_gpu() == current);
      }
      CHECK(first.losses() == losses_a);
      CHECK(second.losses() == losses_b);
      Text<T> one(a), other(b);
      for (int i = 0; i < Text<T>::rounds; ++i) {
        one.step();
        other.step();
        CHECK(current_gpu() == current);
      }
      CHECK(one.tokens() == text_a);
      CHECK(other.tokens() == text_b);
    }  // records, products' libraries and memory go, too
    CHECK(current_gpu() == current);
  }
  make_current(before);
}

}  // namespace

TEST_CASE_TEMPLATE("two devices: two handles of one GPU, in turns", T, float, bf16) {
  check_in_turns<T>(Cuda(0), Cuda(0));
}

TEST_CASE_TEMPLATE("two devices: two GPUs, in turns", T, float, bf16) {
  if (two_gpus()) check_in_turns<T>(Cuda(0), Cuda(1));
}

TEST_CASE("two devices: memory is that of its own GPU, wherever it is asked for and given back") {
  if (!two_gpus()) return;
  const int before = current_gpu();
  for (const int ordinal : {0, 1}) {
    CAPTURE(ordinal);
    make_current(1 - ordinal);
    const Index numbers = 1 << 26;
    const auto free_there = [&] {
      std::size_t free = 0, total = 0;
      const detail::CurrentGpu there(ordinal);
      REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
      return free;
    };
    const Cuda own(ordinal);
    const std::size_t free = free_there();
    {
      const Tensor<float, Cuda> x(own, {numbers});
      cudaPointerAttributes where{};
      REQUIRE(cudaPointerGetAttributes(&where, x.data()) == cudaSuccess);
      CHECK(where.device == ordinal);
      CHECK(free_there() <= free - x.bytes());
      fill_value(own, numbers, 2.5F, x.data());
      CHECK(host(x.slice_front(0, 3)) == Numbers{2.5, 2.5, 2.5});
    }
    own.pool().trim();
    CHECK(free_there() == free);
    CHECK(current_gpu() == 1 - ordinal);
    {
      const Cuda::Current current(own);
      CHECK(current_gpu() == ordinal);
    }
    CHECK(current_gpu() == 1 - ordinal);
  }
  make_current(before);
}

TEST_SUITE_END();
