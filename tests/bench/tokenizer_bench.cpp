// Tokenizers on one thread, and the trainer on one and on all, over a text of the caller's:
//
//   MTPX_BENCH_TEXT         file of text; it is cut into documents at the first line end behind 64 KiB
//   MTPX_BENCH_TOKENIZERS   tokenizer.json files, separated by colons
//   MTPX_BENCH_VOCABULARY   tokens to learn; default 32000
//   MTPX_BENCH_OUT          where the learnt tokenizer.json is left, to be compared
//
// What another library makes of the same documents: tests/bench/tokenizer_peers.py.

#include <mtpx/core/cpu.hpp>
#include <mtpx/io/tokenizer_json.hpp>
#include <mtpx/text/bpe_train.hpp>
#include <mtpx/text/input_file.hpp>

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace mtpx;

std::string setting(const char* name, const char* otherwise = "") {
  const char* const value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

std::vector<std::string_view> documents_of(std::string_view text) {
  constexpr std::size_t least = std::size_t{1} << 16U;
  std::vector<std::string_view> documents;
  while (!text.empty()) {
    const std::size_t line = text.size() > least ? text.find('\n', least) : std::string_view::npos;
    const std::size_t end = line == std::string_view::npos ? text.size() : line + 1;
    documents.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return documents;
}

void add_rate(benchmark::State& state, const std::string& text) {
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
}

void encode(benchmark::State& state, const std::string& file, const std::string& text) {
  const Tokenizer tokenizer = read_tokenizer(file);
  std::size_t ids = 0;
  for (auto _ : state) {
    ids = 0;
    for (const std::string_view document : documents_of(text)) ids += tokenizer.encode(document).size();
  }
  add_rate(state, text);
  state.counters["ids"] = static_cast<double>(ids);
}

void learn(benchmark::State& state, int threads, const std::string& text) {
  const Cpu cpu(threads);
  const std::string out = setting("MTPX_BENCH_OUT");
  const auto vocabulary = static_cast<Index>(std::stol(setting("MTPX_BENCH_VOCABULARY", "32000")));
  std::size_t merges = 0;
  for (auto _ : state) {
    const std::vector<std::string_view> documents = documents_of(text);
    const Tokenizer learnt = train_bpe(documents, {.vocab_size = vocabulary, .special = {}}, cpu);
    merges = learnt.parts().merges.size();
    state.PauseTiming();
    if (!out.empty()) write_tokenizer(learnt, out);
    state.ResumeTiming();
  }
  add_rate(state, text);
  state.counters["merges"] = static_cast<double>(merges);
}

[[maybe_unused]] const bool registered = [] {
  const std::string path = setting("MTPX_BENCH_TEXT");
  if (path.empty()) return false;
  const auto text = std::make_shared<const std::string>(InputFile("bench", path).read_text(Index{1} << 32));
  std::istringstream files(setting("MTPX_BENCH_TOKENIZERS"));
  for (std::string file; std::getline(files, file, ':');) {
    const std::string name =
        std::filesystem::path(file).parent_path().filename().string();  // the folder says which
    benchmark::RegisterBenchmark(("encode/" + name).c_str(), [file, text](benchmark::State& state) {
      encode(state, file, *text);
    })->Unit(benchmark::kMillisecond);
  }
  for (const int threads : {1, 0}) {
    benchmark::RegisterBenchmark(threads == 1 ? "train_bpe/one_thread" : "train_bpe/all_threads",
                                 [threads, text](benchmark::State& state) { learn(state, threads, *text); })
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime()
        ->Iterations(1);
  }
  return true;
}();

}  // namespace
