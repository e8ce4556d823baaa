// Loading a model folder of about a gibibyte, warm in the page cache, beside a copy of as many bytes.
//
//   open        time to open and check the file, in milliseconds
//   copy        time for one thread to copy the same bytes into fresh memory: the floor of a load without
//               conversion
//   of_copy     time to load by that of the copy
//   extra_mib   anonymous memory that a load leaves, beyond the tensors themselves

#include <mtpx/core/cpu.hpp>
#include <mtpx/io/model_folder.hpp>

#include <benchmark/benchmark.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

namespace {

using namespace mtpx;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Anonymous memory of this process, in bytes.
double anonymous() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return 1024 * std::stod(line.substr(8));
  }
  return 0;
}

Config large() {
  Config c = small();
  c.hidden_size = 768;
  c.vocab_size = 16384;
  c.num_hidden_layers = 8;
  c.n_routed_experts = 22;
  return c;
}

template <typename Stored>
void load(benchmark::State& state) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "mtpx_load_bench";
  {
    const Cpu cpu(0);
    Transformer<Stored, Cpu> model(cpu, large());
    initialize(model, 1);
    save_model(folder, model);
  }
  const auto size = static_cast<std::size_t>(std::filesystem::file_size(folder / "model.safetensors"));
  double open = 0, copy = 0, loading = 0, extra = 0;
  for (auto _ : state) {
    state.PauseTiming();
    const double start = now();
    {
      const WeightFiles files = WeightFiles::open(folder);
      open += now() - start;
      const double from = now();
      const auto to = std::make_unique_for_overwrite<std::byte[]>(size);
      std::size_t at = 0;
      for (const auto& [name, weight] : files.weights()) {
        const auto bytes = weight.file->bytes(*weight.entry);
        std::memcpy(to.get() + at, bytes.data(), bytes.size());
        at += bytes.size();
      }
      benchmark::DoNotOptimize(to.get());
      copy += now() - from;
    }
    const double before = anonymous();
    state.ResumeTiming();
    const double from = now();
    const Cpu cpu(0);
    const auto loaded = load_model<float>(cpu, folder);
    loading += now() - from;
    state.PauseTiming();
    extra = std::max(extra, anonymous() - before - static_cast<double>(cpu.pool().bytes_in_use()));
    state.ResumeTiming();
  }
  const auto rounds = static_cast<double>(state.iterations());
  state.counters["file_gib"] = static_cast<double>(size) / (1 << 30);
  state.counters["open_ms"] = 1e3 * open / rounds;
  state.counters["copy_ms"] = 1e3 * copy / rounds;
  state.counters["of_copy"] = loading / copy;
  state.counters["extra_mib"] = extra / (1 << 20);
  std::filesystem::remove_all(folder);
}

BENCHMARK(load<float>)->Name("load/F32_to_float")->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(load<bf16>)->Name("load/BF16_to_float")->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
