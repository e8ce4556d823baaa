// Text and its ids.

#include "text.hpp"

#include <charconv>
#include <sstream>

namespace program {

namespace {

/// A tokenizer of which the model knows every id, or an error that names both.
mtpx::Tokenizer read_fitting(const std::filesystem::path& file, const mtpx::Config& config) {
  const mtpx::Tokenizer tokenizer = read_tokenizer(file);
  if (tokenizer.size() <= config.vocab_size) return tokenizer;
  throw mtpx::ConfigError(mtpx::cat("[tokenizer] ", file.string(), ": has ids up to ", tokenizer.size() - 1,
                                    "; the model's vocab_size is ", config.vocab_size));
}

std::vector<std::filesystem::path> data_paths(const std::vector<std::string>& paths) {
  if (paths.empty()) return {MTPX_SOURCE_DIR};
  return {paths.begin(), paths.end()};
}

/// Throws FileError if one of several, or of what has to be text, is a token file.
void refuse_token_files(const std::vector<std::filesystem::path>& paths, const char* why) {
  for (const std::filesystem::path& path : paths) {
    if (mtpx::TokenFile::is(path))
      throw mtpx::FileError(mtpx::cat("[data] ", path.string(), ": is a token file, ", why));
  }
}

/// Throws FileError unless this tokenizer made the file.
void check_tokenizer(const mtpx::TokenFile& file, const mtpx::Tokenizer& tokenizer) {
  const auto rule = [&](bool holds, const char* key, const auto& value, const auto& wanted) {
    if (!holds)
      throw mtpx::FileError(
          mtpx::cat("[tokens] ", file.path(), ": ", key, " = ", value, ": the model's is ", wanted));
  };
  rule(file.tokenizer() == tokenizer.fingerprint(), "tokenizer", mtpx::checksum_text(file.tokenizer()),
       mtpx::checksum_text(tokenizer.fingerprint()));
  rule(file.vocabulary() == tokenizer.size(), "vocabulary", file.vocabulary(), tokenizer.size());
}

void write_tokens_of(const std::filesystem::path& file, const std::vector<std::filesystem::path>& texts,
                     const mtpx::Tokenizer& tokenizer, const mtpx::Cpu& host) {
  try {
    program::write_token_file(file, texts, tokenizer, host);
  } catch (const mtpx::FileError& error) {  // about a text, or about the file
    if (std::string_view(error.what()).starts_with(mtpx::cat("[tokens] ", file.string(), ": ")))
      throw OutputError(error.what());
    throw;
  }
}

}  // namespace

void write_tokens(const std::filesystem::path& file, const std::vector<std::string>& data,
                  const mtpx::Tokenizer& tokenizer, const mtpx::Cpu& host) {
  const auto texts = data_paths(data);
  refuse_token_files(texts, "and this command takes text");
  write_tokens_of(file, texts, tokenizer, host);
}

mtpx::Corpus read_corpus(const std::vector<std::string>& paths) {
  const auto all = data_paths(paths);
  refuse_token_files(all, "and this command takes text");
  return mtpx::read_corpus(all);
}

TextData::TextData(std::vector<std::string> paths, bool verify, mtpx::Index memory)
    : paths_(data_paths(paths)), verify_(verify) {
  if (paths_.size() == 1 && mtpx::TokenFile::is(paths_[0])) {
    file_ = mtpx::TokenFile::open(paths_[0], {verify});
    return;
  }
  refuse_token_files(paths_, "which stands alone in --data");
  if (mtpx::text_bytes_at_most(paths_) <= static_cast<std::uintmax_t>(memory) << 20U)
    corpus_ = mtpx::read_corpus(paths_);
}

mtpx::Tokenizer TextData::learn(mtpx::Index vocabulary, double held_out) const {
  if (file_)
    throw mtpx::FileError(
        mtpx::cat("[tokens] ", file_->path(),
                  ": holds ids, from which no tokenizer can be learnt: --tokenizer names theirs"));
  if (corpus_) return learn_tokenizer(corpus_->split(held_out).train, vocabulary);
  return learn_tokenizer(paths_, held_out, vocabulary);
}

TextIds TextData::ids(const mtpx::Tokenizer& tokenizer, const std::filesystem::path& kept,
                      const std::function<void(const std::string&)>& say) {
  if (!file_ && !corpus_ && !kept.empty()) {
    if (mtpx::TokenFile::is(kept)) {
      const mtpx::TokenFile file = mtpx::TokenFile::open(kept, {verify_});
      if (file.tokenizer() == tokenizer.fingerprint() &&
          file.text_checksum() == mtpx::TextChecksum::of(paths_))
        file_ = file;
    }
    if (!file_) {
      say(mtpx::cat("notice: the text is large; its tokens go to ", kept.string()));
      write_tokens_of(kept, paths_, tokenizer, mtpx::Cpu());
      file_ = mtpx::TokenFile::open(kept, {verify_});
    }
  }
  if (file_) {
    check_tokenizer(*file_, tokenizer);
    return {file_->tokens(), file_->text_bytes(), file_->fingerprint()};
  }
  const mtpx::Corpus text = corpus_ ? *corpus_ : mtpx::read_corpus(paths_);
  corpus_.reset();
  TextIds ids{tokens_of(text, tokenizer), text.size(), 0};
  ids.fingerprint = program::fingerprint(ids.tokens);
  return ids;
}

mtpx::Tokenizer tokenizer_of(const std::string& folder, const mtpx::Config& config,
                             mtpx::SafeTensorsOptions options) {
  const std::filesystem::path file = mtpx::tokenizer_path(folder, options);
  if (!file.empty()) return read_fitting(file, config);
  if (config.vocab_size == 256) return {};
  throw mtpx::ConfigError(mtpx::cat("[tokenizer] ",
                                    (std::filesystem::path(folder) / "tokenizer.json").string(),
                                    ": not there, and vocab_size = ", config.vocab_size,
                                    ": text is read as bytes only with a vocabulary of 256"));
}

mtpx::Tokenizer new_tokenizer(const std::string& file, const mtpx::Config& config, const TextData& text,
                              double held_out) {
  if (!file.empty()) return read_fitting(file, config);
  if (config.vocab_size == 256) return {};
  if (config.vocab_size < 256) {
    throw mtpx::ConfigError(mtpx::cat("[tokenizer] vocab_size = ", config.vocab_size,
                                      ": must be at least 256, an id for each byte"));
  }
  return text.learn(config.vocab_size, held_out);
}

mtpx::Tokenizer named_tokenizer(const std::string& name) {
  if (name == "bytes") return {};
  const std::filesystem::path path(name);
  std::error_code none;
  if (!std::filesystem::is_directory(path, none)) return read_tokenizer(path);
  const std::filesystem::path file = mtpx::tokenizer_path(path);
  return read_tokenizer(file.empty() ? path / "tokenizer.json" : file);
}

std::vector<std::int32_t> prompt_ids(std::string_view text, const mtpx::Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids = encode(tokenizer, text, false);
  const std::vector<std::int32_t>& before = tokenizer.parts().before;
  ids.insert(ids.begin(), before.begin(), before.end());
  return ids;
}

mtpx::TokenizerFiles tokenizer_files(const mtpx::Tokenizer& tokenizer, const std::filesystem::path& from,
                                     const std::filesystem::path& model) {
  const auto text = [](const std::filesystem::path& file) {
    return mtpx::InputFile("tokenizer", file).read_text(mtpx::Index{1} << 30);
  };
  const auto if_there = [&](const std::filesystem::path& file) {
    return std::filesystem::exists(file) ? text(file) : std::string();
  };
  mtpx::TokenizerFiles files;
  if (!from.empty()) {
    files.tokenizer = text(from);
  } else if (!tokenizer.is_bytes()) {
    files.tokenizer = mtpx::tokenizer_json(tokenizer);
  }
  if (from.empty() && model.empty()) return files;
  const std::filesystem::path folder = model.empty() ? from.parent_path() : model;
  files.settings = if_there(folder / "tokenizer_config.json");
  files.chat_template = if_there(folder / "chat_template.jinja");
  if (!model.empty()) files.generation = if_there(folder / "generation_config.json");
  return files;
}

std::vector<mtpx::Index> id_counts(const mtpx::Tokens& text, mtpx::Index vocabulary) {
  std::vector<mtpx::Index> counts(static_cast<std::size_t>(vocabulary), 0);
  std::vector<std::int32_t> ids;
  constexpr mtpx::Index step = mtpx::Index{1} << 16;
  for (mtpx::Index begin = 0; begin < text.size(); begin += step) {
    ids.resize(static_cast<std::size_t>(std::min(step, text.size() - begin)));
    text.read(begin, ids);
    for (const std::int32_t id : ids) {
      if (id < vocabulary) ++counts[static_cast<std::size_t>(id)];
    }
  }
  return counts;
}

CLI::Option* DraftVocabulary::add(CLI::App& command, const char* number) {
  return command.add_option("--draft-vocabulary", given,
                            mtpx::cat("Tokens that drafts are picked from, over the model's own: a number = ",
                                      number, ", 0 = all; or a file of ids, ascending. No text changes"));
}

std::vector<std::int32_t> DraftVocabulary::ids(mtpx::Index vocabulary,
                                               std::span<const mtpx::Index> counts) const {
  const auto number = [](std::string_view text, auto& into) {
    const auto [last, failed] = std::from_chars(text.data(), text.data() + text.size(), into);
    return failed == std::errc{} && last == text.data() + text.size();
  };
  if (mtpx::Index n = 0; number(given, n)) {
    if (n < 0 || n > vocabulary)
      throw mtpx::ConfigError(
          mtpx::cat("[draft vocabulary] --draft-vocabulary ", n, ": the model has ", vocabulary, " tokens"));
    const std::vector<mtpx::Index> none(static_cast<std::size_t>(vocabulary), 0);
    return n == 0 ? std::vector<std::int32_t>() : mtpx::most_frequent_ids(counts.empty() ? none : counts, n);
  }
  const std::string text = mtpx::InputFile("draft vocabulary", given).read_text(mtpx::Index{1} << 28);
  std::vector<std::int32_t> all;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (!number(word, all.emplace_back()))
      throw mtpx::FileError(
          mtpx::cat("[draft vocabulary] ", given, ": ", mtpx::detail::quote(word), " is no id"));
  }
  if (all.empty()) throw mtpx::FileError(mtpx::cat("[draft vocabulary] ", given, ": has no ids"));
  return all;
}

std::vector<std::int32_t> token_bytes(const mtpx::Tokenizer& tokenizer, const mtpx::Config& config) {
  std::vector<std::int32_t> bytes(static_cast<std::size_t>(config.vocab_size), 0);
  for (std::int32_t id = 0; id < static_cast<std::int32_t>(tokenizer.size()); ++id)
    bytes[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(tokenizer.text(id).size());
  return bytes;
}

}  // namespace program
