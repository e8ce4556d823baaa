// Text and its ids.

#include "text.hpp"

#include <mtpx/io/checkpoint.hpp>

namespace program {

namespace {

/// A tokenizer of which the model knows every id, or an error that names both.
mtpx::Tokenizer read_fitting(const std::filesystem::path& file, const mtpx::Config& config) {
  const mtpx::Tokenizer tokenizer = mtpx::read_tokenizer(file);
  if (tokenizer.size() <= config.vocab_size) return tokenizer;
  throw mtpx::ConfigError(mtpx::cat("[tokenizer] ", file.string(), ": has ids up to ", tokenizer.size() - 1,
                                    "; the model's vocab_size is ", config.vocab_size));
}

}  // namespace

mtpx::Corpus read_corpus(const std::vector<std::string>& paths) {
  if (paths.empty()) return mtpx::Corpus::from_paths({MTPX_SOURCE_DIR});
  return mtpx::Corpus::from_paths({paths.begin(), paths.end()});
}

mtpx::Tokenizer tokenizer_of(const std::string& folder, const mtpx::Config& config) {
  const std::filesystem::path file = std::filesystem::path(folder) / "tokenizer.json";
  if (std::filesystem::exists(file)) return read_fitting(file, config);
  if (config.vocab_size == 256) return {};
  throw mtpx::ConfigError(mtpx::cat("[tokenizer] ", file.string(),
                                    ": not there, and vocab_size = ", config.vocab_size,
                                    ": text is read as bytes only with a vocabulary of 256"));
}

mtpx::Tokenizer new_tokenizer(const std::string& file, const mtpx::Config& config, const mtpx::Corpus& text) {
  if (!file.empty()) return read_fitting(file, config);
  if (config.vocab_size == 256) return {};
  if (config.vocab_size < 256) {
    throw mtpx::ConfigError(mtpx::cat("[tokenizer] vocab_size = ", config.vocab_size,
                                      ": must be at least 256, an id for each byte"));
  }
  std::vector<std::string_view> documents;
  for (mtpx::Index d = 0; d < text.documents(); ++d) documents.push_back(text.text(d));
  return mtpx::train_bpe(documents, {.vocab_size = config.vocab_size, .special = {}});
}

mtpx::Tokens tokens_of(const mtpx::Corpus& text, const mtpx::Tokenizer& tokenizer) {
  if (tokenizer.is_bytes()) return text;
  return {text, [&tokenizer](std::string_view document) {
            const mtpx::TokenizerParts& parts = tokenizer.parts();
            std::vector<std::int32_t> ids = tokenizer.encode(document);
            ids.insert(ids.begin(), parts.before.begin(), parts.before.end());
            ids.insert(ids.end(), parts.after.begin(), parts.after.end());
            return ids;
          }};
}

std::vector<std::int32_t> prompt_ids(std::string_view text, const mtpx::Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids = tokenizer.encode(text);
  const std::vector<std::int32_t>& before = tokenizer.parts().before;
  ids.insert(ids.begin(), before.begin(), before.end());
  return ids;
}

void save_tokenizer(const mtpx::Tokenizer& tokenizer, const std::filesystem::path& from,
                    const std::filesystem::path& folder) {
  if (from.empty()) {
    if (!tokenizer.is_bytes()) mtpx::write_tokenizer(tokenizer, folder / "tokenizer.json");
    return;
  }
  const auto copy = [&](const std::filesystem::path& file, const char* name) {
    std::error_code none;
    if (!std::filesystem::exists(file) || std::filesystem::equivalent(file, folder / name, none)) return;
    mtpx::OutputFile out("tokenizer", folder / name);
    out.write(mtpx::InputFile("tokenizer", file).read_text(mtpx::Index{1} << 30));
    out.commit();
  };
  copy(from, "tokenizer.json");
  copy(from.parent_path() / "tokenizer_config.json", "tokenizer_config.json");
}

std::string tokenizer_text(const mtpx::Tokenizer& tokenizer, const std::filesystem::path& from) {
  if (from.empty() || !std::filesystem::exists(from)) return mtpx::tokenizer_json(tokenizer);
  return mtpx::InputFile("tokenizer", from).read_text(mtpx::Index{1} << 30);
}

std::string tokenizer_fact(const std::filesystem::path& from) {
  if (from.empty() || !std::filesystem::exists(from)) return "of the text";
  return mtpx::checksum_text(mtpx::detail::file_checksum(mtpx::InputFile("tokenizer", from)));
}

std::vector<std::int32_t> token_bytes(const mtpx::Tokenizer& tokenizer, const mtpx::Config& config) {
  std::vector<std::int32_t> bytes(static_cast<std::size_t>(config.vocab_size), 0);
  for (std::int32_t id = 0; id < static_cast<std::int32_t>(tokenizer.size()); ++id)
    bytes[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(tokenizer.text(id).size());
  return bytes;
}

}  // namespace program
