#pragma once
// From text to token ids and back.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/text/added_tokens.hpp>
#include <mtpx/text/bpe.hpp>
#include <mtpx/text/line_cuts.hpp>
#include <mtpx/text/nfc.hpp>
#include <mtpx/text/split.hpp>
#include <mtpx/text/utf8.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// All that a tokenizer is made of; what a tokenizer.json says.
struct TokenizerParts {
  std::vector<std::string> tokens;             ///< bytes by id; an empty text is no token of the merges
  std::map<std::int32_t, std::string> others;  ///< the vocabulary's texts that bytes' letters do not spell:
                                               ///< ids with a text, that merges never make
  std::vector<Merge> merges;                   ///< by rank
  bool whole_first = false;                    ///< `ignore_merges`: a piece that is a token needs no merges
  bool nfc = false;                            ///< text is put into Unicode's normalization form C first
  std::vector<Split> splits;                   ///< each cuts the pieces of the one before
  std::vector<AddedToken> added;               ///< found before a text is cut
  std::vector<std::int32_t> before, after;     ///< what the file's post-processor puts around a text
};

/// A tokenizer of byte-level BPE; of bytes, too, which is 256 tokens and no merges. A handle: copies share
/// what it stands for, which never changes, so threads may share it.
class Tokenizer {
 public:
  /// Bytes: ids 0 ... 255.
  Tokenizer() : Tokenizer(bytes()) {}

  /// Throws ConfigError if the parts do not fit together.
  explicit Tokenizer(TokenizerParts parts) : state_(std::make_shared<const State>(std::move(parts))) {}

  /// Ids are 0 ... size() - 1; some may have no text.
  Index size() const { return static_cast<Index>(state_->texts.size()); }
  /// Whether ids are the bytes of a text.
  bool is_bytes() const { return state_->is_bytes; }

  /// The ids of a text. Added tokens are found first, those that are special only if `special` is true (text
  /// of a user must not end a turn); the rest is cut into pieces and merged. Nothing is put before or after:
  /// see parts().before.
  ///
  /// Equal to Hugging Face's library for any UTF-8. That library takes nothing else; here bytes that are not
  /// UTF-8 are kept: a run of them is a piece of its own, and the text before and after it is read as two
  /// texts (in tokenizers of ours they count as letters). So decode(encode(x)) is x for any bytes, unless a
  /// pattern drops some or the file asks for a normalizer.
  std::vector<std::int32_t> encode(std::string_view text, bool special = false) const {
    std::vector<std::int32_t> ids;
    if (is_bytes()) {
      const auto* const bytes = reinterpret_cast<const unsigned char*>(text.data());
      ids.assign(bytes, bytes + text.size());
      return ids;
    }
    ids.reserve(text.size() / 3);
    std::vector<std::vector<Match>> scratch(state_->parts.splits.size());
    const auto cut_and_merge = [&](std::string_view part) { encode_plain(part, scratch, ids); };
    around_added(state_->in_raw, text, special, ids, [&](std::string_view part) {
      const std::string normal = state_->parts.nfc ? normalized(part) : "";
      around_added(state_->in_normalized, state_->parts.nfc ? normal : part, special, ids, cut_and_merge);
    });
    return ids;
  }

  /// The first place known at or after `at` where a text may be cut in two, whose ids one behind the other
  /// are those of the whole; its end if none is known.
  std::size_t cut(std::string_view text, std::size_t at) const {
    if (is_bytes()) return std::min(at, text.size());
    if (!state_->cuts_at_lines) return text.size();
    return state_->own_splits ? OwnPieces::cut(text, at) : detail::line_cut(text, at);
  }

  /// The bytes of one token, valid as long as the tokenizer; empty for an id without a text. A token alone
  /// may be half a character. Throws NumericError for an id outside.
  std::string_view text(std::int32_t id) const {
    if (id < 0 || id >= size()) {
      throw NumericError(cat("[tokenizer] the id ", id, " is outside: ids are 0 ... ", size() - 1));
    }
    return state_->texts[static_cast<std::size_t>(id)];
  }

  /// The bytes of all tokens, added ones as their content. Throws NumericError for an id outside.
  std::string decode(std::span<const std::int32_t> ids) const {
    std::string out;
    for (const std::int32_t id : ids) out += text(id);
    return out;
  }

  /// The added token with this content; null if there is none.
  const AddedToken* added(std::string_view content) const {
    for (const AddedToken& token : state_->parts.added) {
      if (token.content == content) return &token;
    }
    return nullptr;
  }

  /// A 64-bit hash (FNV-1a) of everything that decides ids and texts: equal for tokenizers that do the same.
  std::uint64_t fingerprint() const { return state_->fingerprint; }

  /// What it was made of.
  const TokenizerParts& parts() const { return state_->parts; }

 private:
  struct State {
    explicit State(TokenizerParts from)
        : parts(std::move(from)), bpe(parts.tokens, parts.merges, parts.whole_first) {
      collect_texts();
      std::vector<std::pair<std::string, const AddedToken*>> raw, normalized;
      for (const AddedToken& token : parts.added) {
        if (token.normalized) {
          normalized.emplace_back(parts.nfc ? nfc(token.content) : token.content, &token);
        } else {
          raw.emplace_back(token.content, &token);
        }
      }
      in_raw = detail::AddedTokenFinder(std::move(raw));
      in_normalized = detail::AddedTokenFinder(std::move(normalized));
      is_bytes = parts.tokens.size() == 256 && parts.merges.empty() && texts.size() == 256 &&
                 parts.added.empty() && !parts.nfc;
      for (std::size_t byte = 0; byte < 256; ++byte) {
        is_bytes = is_bytes && bpe.byte(static_cast<unsigned char>(byte)) == static_cast<std::int32_t>(byte);
      }
      own_splits = detail::splits_like_own(parts.splits);
      cuts_at_lines = own_splits ? !parts.nfc : detail::cuts_at_lines(parts.splits);
      for (const AddedToken& token : parts.added) {
        cuts_at_lines = cuts_at_lines && token.content.find_first_of("\r\n") == std::string::npos;
      }
      for (const Split& split : parts.splits) {
        if (!split.literal && !split.find) {
          throw ConfigError("[tokenizer] a split has nothing that finds its pattern");
        }
      }
      fingerprint = hash();
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    void collect_texts() {
      for (std::int32_t id = 0; id < bpe.size(); ++id) texts.push_back(bpe.text(id));
      const auto put = [&](std::int32_t id, const std::string& text, std::string_view what) {
        const auto place = static_cast<std::size_t>(id);
        if (id < 0 || id >= most_tokens || text.empty()) {
          throw ConfigError(
              cat("[tokenizer] ", what, ' ', id, " needs an id of 0 ... ", most_tokens - 1, " and a text"));
        }
        if (place >= texts.size()) texts.resize(place + 1);
        if (!texts[place].empty() && texts[place] != text) {
          throw ConfigError(cat("[tokenizer] ", what, ' ', id, " has the id of another"));
        }
        texts[place] = text;
      };
      for (const auto& [id, text] : parts.others) put(id, text, "token");
      for (const AddedToken& token : parts.added) put(token.id, token.content, "added token");
    }

    std::uint64_t hash() const {
      std::uint64_t value = 0xcbf29ce484222325;
      const auto byte = [&value](std::uint64_t x) { value = (value ^ x) * 0x100000001b3; };
      const auto number = [&byte](std::uint64_t x) {
        for (int shift = 0; shift < 64; shift += 8) byte(x >> shift & 0xffU);
      };
      const auto string = [&](std::string_view text) {
        number(text.size());
        for (const char c : text) byte(static_cast<unsigned char>(c));
      };
      number(texts.size());
      for (const std::string_view text : texts) string(text);
      for (const std::string& text : parts.tokens) byte(!text.empty());
      number(parts.merges.size());
      for (const Merge& pair : parts.merges) number(detail::pair_key(pair));
      number(parts.whole_first);
      number(parts.nfc);
      number(parts.splits.size());
      for (const Split& split : parts.splits) {
        string(split.pattern);
        for (const bool flag : {split.literal, split.drop_matches, split.drop_rest}) byte(flag);
      }
      for (const AddedToken& token : parts.added) {
        number(static_cast<std::uint64_t>(token.id));
        for (const bool flag : {token.special, token.normalized}) byte(flag);
      }
      for (const std::vector<std::int32_t>* around : {&parts.before, &parts.after}) {
        number(around->size());
        for (const std::int32_t id : *around) number(static_cast<std::uint64_t>(id));
      }
      return value;
    }

    TokenizerParts parts;
    Bpe bpe;
    std::vector<std::string_view> texts;             // by id
    detail::AddedTokenFinder in_raw, in_normalized;  // where they are looked for
    bool is_bytes = false, own_splits = false, cuts_at_lines = false;
    std::uint64_t fingerprint = 0;
  };

  static TokenizerParts bytes() {
    TokenizerParts parts;
    for (int byte = 0; byte < 256; ++byte) parts.tokens.emplace_back(1, static_cast<char>(byte));
    return parts;
  }

  /// The added tokens of `finder` in `text`; visit(part) does what stands between.
  template <typename Visit>
  static void around_added(const detail::AddedTokenFinder& finder, std::string_view text, bool special,
                           std::vector<std::int32_t>& ids, const Visit& visit) {
    std::size_t rest = 0, at = 0;
    while (!finder.empty()) {
      const auto found = finder.next(text, at);
      if (found.token == nullptr) break;
      at = found.end;
      if (found.token->special && !special)
        continue;  // text, and nothing begins inside it, as Hugging Face has it
      if (rest < found.begin) visit(text.substr(rest, found.begin - rest));
      ids.push_back(found.token->id);
      rest = at;
    }
    if (rest < text.size()) visit(text.substr(rest));
  }

  void encode_plain(std::string_view text, std::vector<std::vector<Match>>& scratch,
                    std::vector<std::int32_t>& ids) const {
    const State& state = *state_;
    const auto merge = [&](std::string_view piece) { state.bpe.encode(piece, state.fingerprint, ids); };
    if (state.own_splits) {
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = OwnPieces::end(text, at);
        merge(text.substr(at, end - at));
        at = end;
      }
      return;
    }
    for_sound_parts(text, [&](std::string_view part, bool sound) {
      if (sound) {
        detail::split_text(part, state.parts.splits, 0, scratch, merge);
      } else {
        merge(part);
      }
    });
  }

  static std::string normalized(std::string_view text) {
    std::string out;
    for_sound_parts(text,
                    [&](std::string_view part, bool sound) { out += sound ? nfc(part) : std::string(part); });
    return out;
  }

  /// Calls visit(part, sound) for stretches of UTF-8 (sound) and of bytes that are none, as they alternate.
  template <typename Visit>
  static void for_sound_parts(std::string_view text, const Visit& visit) {
    while (!text.empty()) {
      const std::size_t sound = detail::utf8_prefix(text);
      if (sound > 0) visit(text.substr(0, sound), true);
      text.remove_prefix(sound);
      std::size_t broken = 0;
      while (broken < text.size() && detail::utf8_prefix(text.substr(broken, 4)) == 0) ++broken;
      if (broken > 0) visit(text.substr(0, broken), false);
      text.remove_prefix(broken);
    }
  }

  std::shared_ptr<const State> state_;
};

/// Text as its tokens arrive: what is complete comes out as whole UTF-8 characters, the beginning of one is
/// held back, and bytes that belong to none become U+FFFD (`Utf8Stream`). Keeps the tokenizer.
class TokenStream {
 public:
  explicit TokenStream(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

  /// What is complete once the token is known. Throws NumericError for an id outside.
  std::string push(std::int32_t id) {
    std::string out;
    for (const char byte : tokenizer_.text(id)) out += utf8_.push(static_cast<unsigned char>(byte));
    return out;
  }

  /// U+FFFD if the text ends inside a character; otherwise nothing.
  std::string finish() { return utf8_.finish(); }

 private:
  Tokenizer tokenizer_;
  Utf8Stream utf8_;
};

}  // namespace mtpx
