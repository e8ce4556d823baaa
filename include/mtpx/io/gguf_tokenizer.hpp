#pragma once
// A tokenizer as a GGUF file holds it for llama.cpp.

#include <mtpx/core/error.hpp>
#include <mtpx/io/gguf.hpp>
#include <mtpx/io/json.hpp>
#include <mtpx/io/tokenizer_files.hpp>
#include <mtpx/model/config.hpp>
#include <mtpx/text/byte_letters.hpp>
#include <mtpx/text/line_cuts.hpp>
#include <mtpx/text/tokenizer.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace mtpx {

namespace detail {

/// Token types of llama.cpp.
enum GgufTokenType : std::int32_t {
  gguf_normal = 1,
  gguf_control = 3,
  gguf_user_defined = 4,
  gguf_unused = 5
};

/// How llama.cpp cuts a text, by the name that it has for it (`tokenizer.ggml.pre`).
struct GgufSplits {
  std::string_view name;
  std::vector<std::string_view> patterns;  // of the splits that it does, one after the other
  bool whole_first;                        // `ignore_merges` goes with the name
};

/// Those that cut as the patterns say. What is missing: that of GPT-4o, under whose name llama.cpp takes
/// every letter beyond ASCII for upper and lower case at once.
inline const std::vector<GgufSplits>& gguf_splits() {
  static const std::vector<GgufSplits> all = {
      {"deepseek-v3", {lineless_patterns[0], lineless_patterns[2], line_patterns[0]}, false},
      {"llama-bpe", {line_patterns[1]}, true},
      {"qwen2", {line_patterns[2]}, false},
      {"gpt-2", {line_patterns[4]}, false}};
  return all;
}

/// Throws ConfigError "[gguf] the tokenizer: ...", and what to do.
[[noreturn]] inline void refuse_tokenizer(const std::string& cause) {
  throw ConfigError(cat("[gguf] the tokenizer ", cause, "; --no-tokenizer writes the model without it"));
}

/// The name for these splits, or ConfigError.
inline std::string_view gguf_splits_name(const TokenizerParts& parts) {
  const auto same = [&](const GgufSplits& known) {
    return known.patterns.size() == parts.splits.size() &&
           std::equal(parts.splits.begin(), parts.splits.end(), known.patterns.begin(),
                      [](const Split& split, std::string_view pattern) {
                        return !split.literal && !split.drop_matches && !split.drop_rest &&
                               split.pattern == pattern;
                      });
  };
  const auto known = std::find_if(gguf_splits().begin(), gguf_splits().end(), same);
  if (known == gguf_splits().end()) {
    const std::string last = parts.splits.empty() ? "nothing" : quote(parts.splits.back().pattern);
    refuse_tokenizer(cat("cuts text by ", last, ", which llama.cpp has no name for"));
  }
  if (known->whole_first != parts.whole_first)
    refuse_tokenizer(cat("has ignore_merges = ", parts.whole_first ? "true" : "false",
                         "; llama.cpp has no name for that with its splits"));
  return known->name;
}

/// The special tokens that the model's configuration names, and what stands around a text.
inline void add_special_tokens(GgufKeys& keys, const TokenizerParts& parts, const Config& config,
                               std::vector<std::string>& notices) {
  Index bos = config.bos_token_id;
  if (parts.before.size() > 1 || parts.after.size() > 1 ||
      (!parts.after.empty() && parts.after[0] != config.eos_token_id))
    refuse_tokenizer("puts more around a text than bos before it and eos behind it");
  if (!parts.before.empty()) bos = parts.before[0];
  if (bos >= 0) keys.number("tokenizer.ggml.bos_token_id", bos);
  // llama.cpp knows three tokens that end a text; and those whose texts it knows.
  std::vector<Index> ends = config.more_eos_token_ids;
  if (config.eos_token_id >= 0) ends.insert(ends.begin(), config.eos_token_id);
  constexpr std::array<std::string_view, 3> places{"eos", "eot", "eom"};
  for (std::size_t i = 0; i < std::min(ends.size(), places.size()); ++i)
    keys.number(cat("tokenizer.ggml.", places[i], "_token_id"), ends[i]);
  for (std::size_t i = places.size(); i < ends.size(); ++i)
    notices.push_back(cat("token ", ends[i], " of eos_token_id has no place in a GGUF file, which has ",
                          places.size(), "; it may not end a text"));
  keys.flag("tokenizer.ggml.add_bos_token", !parts.before.empty());
  keys.flag("tokenizer.ggml.add_eos_token", !parts.after.empty());
}

/// Bytes: llama.cpp's tokenizer of RWKV takes the longest token that a text begins with, token texts may
/// spell any byte, and there is neither a default for eos nor a check of UTF-8.
inline void add_byte_tokens(GgufKeys& keys) {
  keys.text("tokenizer.ggml.model", "rwkv");
  std::vector<std::string> texts;
  constexpr std::string_view digits = "0123456789abcdef";
  for (std::size_t byte = 0; byte < 256; ++byte)
    texts.push_back(cat("\\x", digits[byte / 16], digits[byte % 16]));
  keys.texts("tokenizer.ggml.tokens", texts);
  keys.numbers("tokenizer.ggml.token_type", std::vector<std::int32_t>(256, gguf_normal));
}

inline void add_bpe_tokens(GgufKeys& keys, const Tokenizer& tokenizer, const Config& config,
                           std::vector<std::string>& notices) {
  const TokenizerParts& parts = tokenizer.parts();
  keys.text("tokenizer.ggml.model", "gpt2");
  keys.text("tokenizer.ggml.pre", gguf_splits_name(parts));
  if (parts.nfc)
    notices.push_back("the tokenizer puts text into NFC, llama.cpp does not: other forms become other ids");
  if (config.eos_token_id < 0)
    notices.push_back("no eos_token_id: llama.cpp ends a text at token 11, its default");
  const auto size = static_cast<std::size_t>(config.vocab_size);
  std::vector<std::string> texts(size);
  std::vector<std::int32_t> types(size, gguf_unused);
  for (std::size_t id = 0; id < std::min(size, parts.tokens.size()); ++id) {
    if (parts.tokens[id].empty()) continue;
    texts[id] = to_letters(parts.tokens[id]);
    types[id] = gguf_normal;
  }
  const auto put = [&](std::int32_t id, const std::string& text, std::int32_t type) {
    texts[static_cast<std::size_t>(id)] = text;
    types[static_cast<std::size_t>(id)] = type;
  };
  for (const auto& [id, text] : parts.others) put(id, text, gguf_unused);
  for (const AddedToken& token : parts.added)
    put(token.id, token.content, token.special ? gguf_control : gguf_user_defined);
  std::set<std::string_view> seen;
  for (std::size_t id = 0; id < size; ++id) {
    if (texts[id].empty()) texts[id] = cat("[PAD", id, ']');
    if (!seen.insert(texts[id]).second)
      refuse_tokenizer(cat("has the text ", quote(texts[id]), " twice, which llama.cpp takes for one token"));
  }
  keys.texts("tokenizer.ggml.tokens", texts);
  keys.numbers("tokenizer.ggml.token_type", types);
  std::vector<std::string> merges;
  merges.reserve(parts.merges.size());
  for (const Merge& pair : parts.merges)
    merges.push_back(cat(to_letters(parts.tokens[static_cast<std::size_t>(pair.left)]), ' ',
                         to_letters(parts.tokens[static_cast<std::size_t>(pair.right)])));
  keys.texts("tokenizer.ggml.merges", merges);
}

/// The chat templates beside a model, by name; the usual one has none. From chat_template.jinja, or else from
/// tokenizer_config.json, see chat_template_texts().
inline std::map<std::string, std::string> chat_templates(const std::filesystem::path& folder) {
  constexpr Index most = Index{1} << 24;
  const std::filesystem::path text = folder / chat_template_name, settings = folder / tokenizer_settings_name;
  if (std::filesystem::exists(text)) return {{"", InputFile("gguf", text).read_text(most)}};
  if (!std::filesystem::exists(settings)) return {};
  const InputFile file("gguf", settings);
  return chat_template_texts(file, parse_json("gguf", file.read_text(most), file.path()));
}

}  // namespace detail

/// Adds what llama.cpp reads a text with: tokens, their types, merges, how a text is cut, the special tokens
/// of the configuration, and the chat templates of the folder. Ids that the tokenizer lacks become unused
/// ones. Throws ConfigError, by name, for a tokenizer of which llama.cpp would make other ids.
///
/// notices: gets a line for each small thing that llama.cpp does otherwise
inline void add_tokenizer(GgufKeys& keys, const Tokenizer& tokenizer, const Config& config,
                          const std::filesystem::path& folder, std::vector<std::string>& notices) {
  if (tokenizer.size() > config.vocab_size)
    detail::refuse_tokenizer(cat("has ", tokenizer.size(), " ids, and vocab_size = ", config.vocab_size));
  if (tokenizer.is_bytes()) {
    if (config.vocab_size != 256)
      detail::refuse_tokenizer(cat("is of bytes, and vocab_size = ", config.vocab_size));
    detail::add_byte_tokens(keys);
  } else {
    detail::add_bpe_tokens(keys, tokenizer, config, notices);
  }
  detail::add_special_tokens(keys, tokenizer.parts(), config, notices);
  std::vector<std::string> names;
  for (const auto& [name, text] : detail::chat_templates(folder)) {
    keys.text(cat("tokenizer.chat_template", name.empty() ? "" : ".", name), text);
    if (!name.empty()) names.push_back(name);
  }
  if (!names.empty()) keys.texts("tokenizer.chat_templates", names);
}

/// Adds that there is none: llama.cpp then takes and gives ids.
inline void add_no_tokenizer(GgufKeys& keys) { keys.text("tokenizer.ggml.model", "none"); }

}  // namespace mtpx
