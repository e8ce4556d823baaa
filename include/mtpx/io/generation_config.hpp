#pragma once
// generation_config.json: how a model's makers want its texts to be written.

#include <mtpx/core/error.hpp>
#include <mtpx/io/config_keys.hpp>
#include <mtpx/io/json.hpp>
#include <mtpx/io/tokenizer_files.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/text/input_file.hpp>

#include <cstdint>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// What a folder's generation_config.json says.
struct GenerationConfig {
  std::optional<SamplingOptions> sampling;  ///< none: greedy, or not said
  std::vector<std::int32_t> end;            ///< tokens that end a text, beside those of config.json
};

/// Reads `do_sample`, `temperature`, `top_k`, `top_p` and `eos_token_id` (one token or a list of them) of the
/// folder's generation_config.json, and leaves its other keys alone; where there is no such file nothing is
/// said. As in transformers the first three count where do_sample is true; without a temperature it is 1
/// then. Throws FileError that lists the values that are none.
inline GenerationConfig read_generation_config(const std::filesystem::path& folder) {
  constexpr Index most = Index{1} << 20;
  const std::filesystem::path path = folder / detail::generation_name;
  GenerationConfig config;
  if (!std::filesystem::exists(path)) return config;
  const InputFile file("generation", path);
  Json json = parse_json<Json>("generation", file.read_text(most), file.path());
  if (!json.is_object()) file.fail("is not an object");
  for (auto key = json.begin(); key != json.end();) key = key->is_null() ? json.erase(key) : std::next(key);

  std::vector<std::string> problems;
  detail::KeyReader keys(std::move(json), "", problems);
  SamplingOptions sampling{.temperature = 1};
  bool samples = false;
  keys.read("do_sample", samples, false);
  keys.read("temperature", sampling.temperature, false);
  keys.read("top_k", sampling.top_k, false);
  keys.read("top_p", sampling.top_p, false);
  Index first = -1;
  std::vector<Index> others;
  keys.read_tokens("eos_token_id", first, others);
  if (problems.empty()) {
    try {
      sampling.validate();
    } catch (const ConfigError& error) {
      const std::string_view text = error.what();
      problems.emplace_back(text.substr(text.find("] ") + 2));  // it is about this file
    }
  }
  std::string all;
  for (const std::string& problem : problems) all += cat(all.empty() ? "" : "; ", problem);
  if (!all.empty()) file.fail(all);
  if (samples) config.sampling = sampling;
  if (first >= 0) others.insert(others.begin(), first);
  for (const Index id : others) config.end.push_back(static_cast<std::int32_t>(id));
  return config;
}

}  // namespace mtpx
