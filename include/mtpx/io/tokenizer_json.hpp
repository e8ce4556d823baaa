#pragma once
// tokenizer.json, the file of Hugging Face's library: to Tokenizer and back. What it asks and mtpx does not
// do exactly is refused by name.

#include <mtpx/core/error.hpp>
#include <mtpx/io/file.hpp>
#include <mtpx/io/json.hpp>
#include <mtpx/text/byte_letters.hpp>
#include <mtpx/text/tokenizer.hpp>
#ifdef MTPX_PCRE2
#include <mtpx/text/pcre2.hpp>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

/// Reads one tokenizer.json. Everything it does not know by name is an error.
class TokenizerReader {
 public:
  using Value = nlohmann::json;  // sorted: vocabularies have a hundred thousand keys

  explicit TokenizerReader(std::string file) : file_(std::move(file)) {}

  Tokenizer read(std::string_view text) {
    constexpr std::size_t most_values = 20'000'000;  // some three times what the largest files hold
    const Value root = parse_json<Value>("tokenizer", text, file_, most_values);
    known(root, "",
          {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
           "post_processor", "decoder", "model"});
    for (const char* key : {"truncation", "padding"}) {
      if (!get(root, key).is_null()) refuse(key, get(root, key), "only null is supported");
    }
    read_normalizer(get(root, "normalizer"), "normalizer");
    read_model(get(root, "model"));
    read_added(get(root, "added_tokens"));
    read_pre_tokenizer(get(root, "pre_tokenizer"), "pre_tokenizer");
    if (!byte_level_) fail("pre_tokenizer has no ByteLevel: only byte-level BPE is supported");
    read_decoder(get(root, "decoder"), "decoder");
    read_post_processor(get(root, "post_processor"), "post_processor");
    try {
      return Tokenizer(std::move(parts_));
    } catch (const ConfigError& error) {
      constexpr std::string_view head = "[tokenizer] ";
      fail(std::string_view(error.what()).substr(head.size()));
    }
  }

 private:
  [[noreturn]] void fail(std::string_view cause) const {
    throw FileError(cat("[tokenizer] ", file_, ": ", cause));
  }
  [[noreturn]] void refuse(std::string_view where, const Value& value, std::string_view rule) const {
    fail(cat(where, " = ", json_text(value), ": ", rule));
  }

  /// The value of a key; null if it is absent.
  static const Value& get(const Value& object, const char* key) {
    static const Value null;
    const auto place = object.find(key);
    return place == object.end() ? null : *place;
  }
  /// `value` is an object without other keys than these.
  void known(const Value& value, const std::string& where,
             std::initializer_list<std::string_view> keys) const {
    if (!value.is_object()) refuse(where.empty() ? "the file" : where, value, "must be an object");
    for (const auto& [key, unused] : value.items()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end())
        fail(cat(where, where.empty() ? "" : ".", quote(key), " is not known"));
    }
  }
  std::string type(const Value& value, const std::string& where) const {
    if (!value.is_object() || !get(value, "type").is_string())
      refuse(where, value, "must be an object with a type");
    return get(value, "type").get<std::string>();
  }
  const Value& array(const Value& object, const char* key, const std::string& where) const {
    const Value& value = get(object, key);
    if (!value.is_array()) refuse(cat(where, '.', key), value, "must be an array");
    return value;
  }
  bool flag(const Value& object, const char* key, const std::string& where, bool absent) const {
    const Value& value = get(object, key);
    if (value.is_null()) return absent;
    if (!value.is_boolean()) refuse(cat(where, '.', key), value, "must be true or false");
    return value.get<bool>();
  }
  std::string string(const Value& object, const char* key, const std::string& where) const {
    const Value& value = get(object, key);
    if (!value.is_string()) refuse(cat(where, '.', key), value, "must be a string");
    return value.get<std::string>();
  }
  std::int32_t id(const Value& value, const Saying& where) const {
    constexpr auto most = static_cast<std::uint64_t>(most_tokens - 1);
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > most)
      refuse(where.str(), value, cat("must be an id of 0 ... ", most));
    return value.get<std::int32_t>();
  }

  void read_normalizer(const Value& value, const std::string& where) {
    if (value.is_null()) return;
    const std::string kind = type(value, where);
    if (kind == "NFC") {
      known(value, where, {"type"});
      parts_.nfc = true;
      return;
    }
    if (kind != "Sequence") refuse(cat(where, ".type"), Value(kind), "is not supported");
    known(value, where, {"type", "normalizers"});
    const Value& list = array(value, "normalizers", where);
    for (std::size_t i = 0; i < list.size(); ++i) read_normalizer(list[i], cat(where, '[', i, ']'));
  }

  void read_model(const Value& model) {
    known(model, "model",
          {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
           "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (!get(model, "type").is_null() && get(model, "type") != "BPE")
      refuse("model.type", get(model, "type"), "only \"BPE\" is supported");
    // Every byte is a token (Bpe asks for that), so nothing is unknown: unk_token and fuse_unk have no say.
    if (!get(model, "dropout").is_null() && get(model, "dropout") != 0)
      refuse("model.dropout", get(model, "dropout"), "only null is supported");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!get(model, key).is_null() && get(model, key) != "")
        refuse(cat("model.", key), get(model, key), "only null is supported");
    }
    if (flag(model, "byte_fallback", "model", false))
      refuse("model.byte_fallback", get(model, "byte_fallback"), "only false is supported");
    parts_.whole_first = flag(model, "ignore_merges", "model", false);

    const Value& vocab = get(model, "vocab");
    if (!vocab.is_object()) refuse("model.vocab", vocab, "must be an object");
    vocab_.reserve(vocab.size());
    for (const auto& [token, value] : vocab.items()) {
      const auto where = [&token = token] { return cat("model.vocab[", quote(token), ']'); };
      const auto place = static_cast<std::size_t>(id(value, where));
      if (token.empty()) fail("model.vocab has an empty token");
      if (place >= parts_.tokens.size()) parts_.tokens.resize(place + 1);
      if (!parts_.tokens[place].empty() || parts_.others.contains(static_cast<std::int32_t>(place)))
        refuse(where(), value, "is the id of another token");
      if (std::optional<std::string> bytes = from_letters(token)) {
        parts_.tokens[place] = std::move(*bytes);
      } else {
        parts_.others[static_cast<std::int32_t>(place)] = token;
      }
      vocab_[token] = static_cast<std::int32_t>(place);
    }
    const Value& merges = array(model, "merges", "model");
    parts_.merges.reserve(merges.size());
    for (std::size_t rank = 0; rank < merges.size(); ++rank)
      parts_.merges.push_back(merge(merges[rank], rank));
  }

  /// Either form: "a b", or ["a", "b"].
  Merge merge(const Value& value, std::size_t rank) const {
    const auto place = [rank] { return cat("model.merges[", rank, ']'); };
    std::string_view left, right;
    if (value.is_string()) {
      const std::string_view line = value.get_ref<const std::string&>();
      const std::size_t blank = line.find(' ');
      if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos)
        refuse(place(), value, "must be two tokens with a blank between");
      left = line.substr(0, blank);
      right = line.substr(blank + 1);
    } else if (value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string()) {
      left = value[0].get_ref<const std::string&>();
      right = value[1].get_ref<const std::string&>();
    } else {
      refuse(place(), value, "must be two tokens");
    }
    const auto token = [&](const std::string& text) {
      const auto found = vocab_.find(text);
      if (found == vocab_.end()) fail(cat(place(), ": ", quote(text), " is not in the vocabulary"));
      if (parts_.others.contains(found->second))
        fail(cat(place(), ": ", quote(text), " is not spelt in the letters of bytes"));
      return found->second;
    };
    const Merge pair{token(std::string(left)), token(std::string(right))};
    token(std::string(left).append(right));
    return pair;
  }

  void read_added(const Value& list) {
    if (list.is_null()) return;
    if (!list.is_array()) refuse("added_tokens", list, "must be an array");
    std::unordered_set<std::string> contents;
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::string where = cat("added_tokens[", i, ']');
      known(list[i], where, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      AddedToken token;
      token.id = id(get(list[i], "id"), where + ".id");
      token.content = string(list[i], "content", where);
      if (token.content.empty()) fail(cat(where, ".content is empty"));
      token.special = flag(list[i], "special", where, false);
      token.normalized = flag(list[i], "normalized", where, false);
      for (const char* key : {"single_word", "lstrip", "rstrip"}) {
        if (flag(list[i], key, where, false))
          fail(cat(where, '.', key, " = true (of ", quote(token.content), "): only false is supported"));
      }
      const auto found = vocab_.find(token.content);
      if (found != vocab_.end() && found->second != token.id)
        fail(cat(where, ": ", quote(token.content), " has the id ", found->second, " in the vocabulary"));
      if (!contents.insert(token.content).second)
        fail(cat(where, ": ", quote(token.content), " stands twice"));
      parts_.added.push_back(std::move(token));
    }
  }

  void read_pre_tokenizer(const Value& value, const std::string& where) {
    if (value.is_null()) return;
    const std::string kind = type(value, where);
    if (byte_level_) fail(cat(where, " stands after ByteLevel, which must be the last"));
    if (kind == "Sequence") {
      known(value, where, {"type", "pretokenizers"});
      const Value& list = array(value, "pretokenizers", where);
      for (std::size_t i = 0; i < list.size(); ++i) read_pre_tokenizer(list[i], cat(where, '[', i, ']'));
    } else if (kind == "ByteLevel") {
      known(value, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
      if (flag(value, "add_prefix_space", where, true))
        fail(cat(where, ".add_prefix_space = true: only false is supported"));
      if (flag(value, "use_regex", where, true)) add_pattern(std::string(gpt2_pattern));
      byte_level_ = true;
    } else if (kind == "Split") {
      read_split(value, where);
    } else if (kind == "Digits") {
      known(value, where, {"type", "individual_digits"});
      add_pattern(flag(value, "individual_digits", where, false) ? "\\p{N}" : "\\p{N}+");
    } else {
      refuse(where + ".type", Value(kind), "is not supported");
    }
  }

  void read_split(const Value& value, const std::string& where) {
    known(value, where, {"type", "pattern", "behavior", "invert"});
    const Value& pattern = get(value, "pattern");
    known(pattern, where + ".pattern", {"Regex", "String"});
    if (pattern.size() != 1) refuse(where + ".pattern", pattern, "must be one of Regex and String");
    const std::string behavior = string(value, "behavior", where);
    if (behavior != "Isolated" && behavior != "Removed")
      refuse(where + ".behavior", get(value, "behavior"), "only \"Isolated\" and \"Removed\" are supported");
    const bool invert = flag(value, "invert", where, false), removed = behavior == "Removed";
    if (pattern.contains("String")) {
      Split split;
      split.pattern = string(pattern, "String", where + ".pattern");
      if (split.pattern.empty()) fail(cat(where, ".pattern is empty"));
      split.literal = true;
      parts_.splits.push_back(std::move(split));
    } else {
      add_pattern(string(pattern, "Regex", where + ".pattern"));
    }
    parts_.splits.back().drop_matches = removed && !invert;
    parts_.splits.back().drop_rest = removed && invert;
  }

  void add_pattern(std::string pattern) {
    Split split;
    split.pattern = std::move(pattern);
    if (split.pattern == own_pattern) {
      split.find = OwnPieces::find;
    } else {
#ifdef MTPX_PCRE2
      try {
        split.find = pcre2_matches(split.pattern);
      } catch (const ConfigError& error) {
        constexpr std::string_view head = "[tokenizer] ";
        fail(std::string_view(error.what()).substr(head.size()));
      }
#else
      fail(
          "its patterns need PCRE2, which this program was built without: install it (Debian: apt-get "
          "install "
          "libpcre2-dev), then configure and build again");
#endif
    }
    parts_.splits.push_back(std::move(split));
  }

  void read_decoder(const Value& value, const std::string& where) const {
    const std::string kind = type(value, where);
    if (kind == "Sequence") {
      known(value, where, {"type", "decoders"});
      const Value& list = array(value, "decoders", where);
      if (list.size() != 1) refuse(where + ".decoders", list, "only one decoder, ByteLevel, is supported");
      read_decoder(list[0], where + "[0]");
    } else if (kind != "ByteLevel") {
      refuse(where + ".type", Value(kind), "only \"ByteLevel\" is supported");
    }
  }

  void read_post_processor(const Value& value, const std::string& where) {
    if (value.is_null()) return;
    const std::string kind = type(value, where);
    if (kind == "Sequence") {
      known(value, where, {"type", "processors"});
      const Value& list = array(value, "processors", where);
      for (std::size_t i = 0; i < list.size(); ++i) read_post_processor(list[i], cat(where, '[', i, ']'));
    } else if (kind == "TemplateProcessing") {
      read_template(value, where);
    } else if (kind != "ByteLevel") {  // that one is about offsets
      refuse(where + ".type", Value(kind), "is not supported");
    }
  }

  void read_template(const Value& value, const std::string& where) {
    known(value, where, {"type", "single", "pair", "special_tokens"});
    const Value& list = array(value, "single", where);
    std::vector<std::int32_t> before, after;
    bool text = false;
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::string place = cat(where, ".single[", i, ']');
      known(list[i], place, {"SpecialToken", "Sequence"});
      if (list[i].contains("Sequence")) {
        if (text) fail(cat(place, " is a second Sequence"));
        text = true;
        continue;
      }
      const std::string name = string(get(list[i], "SpecialToken"), "id", place + ".SpecialToken");
      const std::string entry = cat(where, ".special_tokens[", quote(name), ']');
      const Value& tokens = get(value, "special_tokens");
      if (!tokens.is_object() || !tokens.contains(name)) fail(cat(entry, " is missing"));
      const Value& ids = array(tokens[name], "ids", entry);
      for (const Value& token : ids) (text ? after : before).push_back(id(token, entry + ".ids"));
    }
    if (!text) fail(cat(where, ".single has no Sequence"));
    // One template after the other puts its tokens around what the first one made.
    parts_.before.insert(parts_.before.begin(), before.begin(), before.end());
    parts_.after.insert(parts_.after.end(), after.begin(), after.end());
  }

  /// What ByteLevel cuts with by itself (GPT-2).
  static constexpr std::string_view gpt2_pattern =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

  std::string file_;
  TokenizerParts parts_;
  std::unordered_map<std::string, std::int32_t> vocab_;
  bool byte_level_ = false;
};

/// A string in JSON.
inline std::string json_string(std::string_view text) { return Json(std::string(text)).dump(); }

/// An array of JSON texts, one a line.
template <typename List, typename Text>
std::string json_lines(const List& list, const Text& text, char open, char close, std::string_view indent) {
  std::string out(1, open);
  bool first = true;
  for (const auto& item : list) {
    out += cat(first ? "\n  " : ",\n  ", indent, text(item));
    first = false;
  }
  return out + (first ? "" : cat("\n", indent)) + close;
}

inline std::string split_json(const Split& split) {
  const bool invert = split.drop_rest;
  return cat(R"({"type": "Split", "pattern": {")", split.literal ? "String" : "Regex",
             "\": ", json_string(split.pattern), R"(}, "behavior": ")",
             split.drop_matches || split.drop_rest ? "Removed" : "Isolated", R"(", "invert": )",
             invert ? "true" : "false", "}");
}

/// TemplateProcessing with the tokens around a text; null if there are none.
inline std::string post_processor_json(const Tokenizer& tokenizer) {
  const TokenizerParts& parts = tokenizer.parts();
  if (parts.before.empty() && parts.after.empty()) return "null";
  Json single = Json::array(), pair = Json::array(), tokens = Json::object();
  const auto add = [&](Json& list, const std::vector<std::int32_t>& ids, int type) {
    for (const std::int32_t id : ids) {
      const std::string text(tokenizer.text(id));
      list.push_back({{"SpecialToken", {{"id", text}, {"type_id", type}}}});
      tokens[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    }
  };
  const auto whole = [&](Json& list, const char* name, int type) {
    add(list, parts.before, type);
    list.push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
    add(list, parts.after, type);
  };
  whole(single, "A", 0);
  whole(pair, "A", 0);
  whole(pair, "B", 1);
  return Json{{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}}
      .dump();
}

}  // namespace detail

/// The tokenizer that a tokenizer.json says. `file` names it in errors. Throws FileError "[tokenizer] file:
/// ..." for what is no such file and for everything that mtpx would do differently from Hugging Face's
/// library.
inline Tokenizer parse_tokenizer(std::string_view text, const std::string& file) {
  return detail::TokenizerReader(file).read(text);
}

/// parse_tokenizer() of a file.
inline Tokenizer read_tokenizer(const std::filesystem::path& file) {
  const InputFile input("tokenizer", file);
  constexpr Index limit = Index{1} << 28U;
  return parse_tokenizer(input.read_text(limit), input.path());
}

/// A tokenizer as a tokenizer.json, which Hugging Face's library reads.
inline std::string tokenizer_json(const Tokenizer& tokenizer) {
  using namespace detail;
  const TokenizerParts& parts = tokenizer.parts();
  const auto letters = [&](std::int32_t id) {
    return to_letters(parts.tokens[static_cast<std::size_t>(id)]);
  };
  std::vector<std::pair<std::string, std::size_t>> vocab;
  for (std::size_t id = 0; id < static_cast<std::size_t>(tokenizer.size()); ++id) {
    const auto other = parts.others.find(static_cast<std::int32_t>(id));
    if (other != parts.others.end()) {
      vocab.emplace_back(other->second, id);
    } else if (id < parts.tokens.size() && !parts.tokens[id].empty()) {
      vocab.emplace_back(to_letters(parts.tokens[id]), id);
    }
  }
  const std::string byte_level = R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, )"
                                 R"("use_regex": false})";
  std::vector<std::string> cuts;
  for (const Split& split : parts.splits) cuts.push_back(split_json(split));
  cuts.push_back(byte_level);
  const auto boolean = [](bool value) { return value ? "true" : "false"; };
  const auto added = [&](const AddedToken& token) {
    return cat("{\"id\": ", token.id, ", \"content\": ", json_string(token.content),
               R"(, "single_word": false, "lstrip": false, "rstrip": false, "normalized": )",
               boolean(token.normalized), ", \"special\": ", boolean(token.special), "}");
  };
  return cat(
      "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": ",
      json_lines(parts.added, added, '[', ']', "  "),
      ",\n  \"normalizer\": ", parts.nfc ? R"({"type": "NFC"})" : "null",
      ",\n  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": ",
      json_lines(cuts, std::identity(), '[', ']', "  "),
      "},\n  \"post_processor\": ", post_processor_json(tokenizer), ",\n  \"decoder\": ", byte_level,
      ",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
      "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": ",
      boolean(parts.whole_first), ",\n    \"vocab\": ",
      json_lines(
          vocab, [](const auto& entry) { return cat(json_string(entry.first), ": ", entry.second); }, '{',
          '}', "    "),
      ",\n    \"merges\": ",
      json_lines(
          parts.merges,
          [&](Merge pair) { return json_string(cat(letters(pair.left), ' ', letters(pair.right))); }, '[',
          ']', "    "),
      "\n  }\n}\n");
}

/// Writes tokenizer_json(), whole or not at all. Throws FileError if it cannot be written.
inline void write_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& file) {
  OutputFile output("tokenizer", file);
  output.write(tokenizer_json(tokenizer));
  output.commit();
}

}  // namespace mtpx
