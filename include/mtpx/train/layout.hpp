#pragma once
// Which stage of a pipeline has what of a model, as one line of text.

#include <mtpx/core/error.hpp>
#include <mtpx/model/config.hpp>
#include <mtpx/model/slice.hpp>

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// The stages of a pipeline, written as Megatron-LM writes them (its pipeline-model-parallel-layout):
///
///   E  the embedding      t  a layer      m  a depth      L  the final norm and the output head
///   |  the next stage     x*3  three times x, a letter or a group     (t|)*2  a group     , and spaces:
///   nothing
///
/// "Et*4|t*4|t*4|mL" is "Etttt|tttt|tttt|mL". The order is that of a forward. Depths stand in the stage of L:
/// they read the output head, and it has one owner, as the embedding has, whose stage looks up the tokens of
/// all depths. So Megatron's "m|L" is refused.
class Layout {
 public:
  /// What one stage has, by number.
  struct Stage {
    bool embedding = false;  ///< E
    Index layers = 0;        ///< how many t
    Index depths = 0;        ///< how many m
    bool head = false;       ///< L

    bool operator==(const Stage&) const = default;
  };

  /// Reads the text. Throws ConfigError naming the place, from 1, of what cannot be.
  static Layout parse(std::string_view text) { return Reader(text).read(); }

  /// Stages with so many layers each, the depths and the head in the last.   layers: at least one stage
  static Layout of_counts(const std::vector<Index>& layers, Index depths) {
    Layout layout;
    for (const Index count : layers) layout.stages_.push_back({false, count, 0, false});
    layout.stages_.front().embedding = true;
    layout.stages_.back().depths = depths;
    layout.stages_.back().head = true;
    return layout;
  }

  /// How many there are.
  Index stages() const { return static_cast<Index>(stages_.size()); }
  /// What stage s has, from 0.
  const Stage& stage(Index s) const { return stages_[static_cast<std::size_t>(s)]; }
  /// The layers of all stages.
  Index layers() const { return slice(stages() - 1).end; }

  /// Stage s as a part of a model.
  ModelSlice slice(Index s) const {
    ModelSlice part{stage(s).embedding, 0, 0, stage(s).head};
    for (Index before = 0; before < s; ++before) part.begin += stage(before).layers;
    part.end = part.begin + stage(s).layers;
    return part;
  }

  /// As parse() reads it; more than four of a letter are written x*n.
  std::string text() const {
    std::string out;
    const auto letters = [&](char letter, Index count) {
      if (count > 4) {
        out += cat(letter, '*', count);
      } else {
        out.append(static_cast<std::size_t>(count), letter);
      }
    };
    for (const Stage& stage : stages_) {
      if (!out.empty()) out += '|';
      letters('E', stage.embedding ? 1 : 0);
      letters('t', stage.layers);
      letters('m', stage.depths);
      letters('L', stage.head ? 1 : 0);
    }
    return out;
  }

  /// Throws ConfigError, with every rule that does not hold, where this is no layout of the model.
  void check(const Config& config) const {
    std::vector<std::string> broken;
    const auto rule = [&](bool holds, const auto&... text) {
      if (!holds) broken.push_back(cat(text...));
    };
    const MtpDesign design = config.design();
    const Index depths = stages_.back().depths, own = design.own_layers;
    rule(layers() == config.num_hidden_layers, layers(), " t, num_hidden_layers = ", config.num_hidden_layers,
         ": a t for every layer");
    rule(depths == config.num_nextn_predict_layers, depths,
         " m, num_nextn_predict_layers = ", config.num_nextn_predict_layers, ": an m for every depth");
    rule(stages() == 1 || !config.tie_word_embeddings,
         "tie_word_embeddings = true: the first stage and the last would both own that matrix");
    rule(depths == 0 || design.chains || stages_.back().layers >= own, "the last stage has ",
         stages_.back().layers, " t: depths that do not chain read the state before the last ", own,
         own == 1 ? " layer, which stands" : " layers, which stand", " with them");
    if (broken.empty()) return;
    std::string all = cat("[layout] \"", text(), "\" is none of this model");
    for (const std::string& one : broken) all += "\n  " + one;
    throw ConfigError(all);
  }

  bool operator==(const Layout&) const = default;

 private:
  /// Letters and bars, each with its place in the text.
  using Symbols = std::vector<std::pair<char, std::size_t>>;

  /// Reads one text.
  class Reader {
   public:
    explicit Reader(std::string_view text) : text_(text) {}

    Layout read() {
      const Symbols all = sequence(0);
      if (place_ < text_.size()) fail(place_, "a ) without its (");
      Layout layout;
      layout.stages_.emplace_back();
      for (const auto& [letter, at] : all) add(layout, letter, at);
      if (all.empty() || !layout.stages_.front().embedding) fail(0, "it begins with E, the embedding");
      if (!layout.stages_.back().head) fail(text_.size(), "it ends with L, the output head");
      return layout;
    }

   private:
    static constexpr std::size_t most = 1 << 16;  // symbols: some hundred times the layers of any model
    static constexpr int deepest = 64;            // groups in groups

    [[noreturn]] void fail(std::size_t at, const std::string& why) const {
      throw ConfigError(cat("[layout] \"", text_, "\", place ", at + 1, ": ", why));
    }

    void skip() {
      while (place_ < text_.size() && (text_[place_] == ',' || text_[place_] == ' ')) ++place_;
    }

    Symbols sequence(int depth) {
      Symbols all;
      for (skip(); place_ < text_.size() && text_[place_] != ')'; skip()) {
        const std::size_t begin = place_;
        Symbols one;
        if (text_[place_] == '(') {
          if (depth == deepest) fail(begin, "groups stand too deep in groups");
          ++place_;
          one = sequence(depth + 1);
          if (place_ == text_.size()) fail(begin, "a ( without its )");
          ++place_;
        } else {
          if (std::string_view("EtmL|").find(text_[place_]) == std::string_view::npos)
            fail(place_, cat('\'', text_[place_], "' is none of E, t, m, L, |, (, ), * and a comma"));
          one.emplace_back(text_[place_], place_);
          ++place_;
        }
        const std::size_t times = repeats();
        if (all.size() + one.size() * times > most) fail(begin, cat("more than ", most, " symbols"));
        for (std::size_t i = 0; i < times; ++i) all.insert(all.end(), one.begin(), one.end());
      }
      return all;
    }

    /// The n of *n; without one 1.
    std::size_t repeats() {
      skip();
      if (place_ == text_.size() || text_[place_] != '*') return 1;
      const std::size_t star = place_++;
      skip();
      std::size_t count = 0;
      for (; place_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[place_])); ++place_)
        count = std::min(most + 1, 10 * count + static_cast<std::size_t>(text_[place_] - '0'));
      if (count == 0) fail(star, "* needs a number behind it, at least 1");
      return count;
    }

    void add(Layout& layout, char letter, std::size_t at) const {
      Stage& stage = layout.stages_.back();
      if (letter != 'E' && !layout.stages_.front().embedding) fail(at, "it begins with E, the embedding");
      if (stage.head) fail(at, letter == 'L' ? "a second L" : "nothing follows L, the output head");
      if (letter == '|') {
        if (stage == Stage{}) fail(at, "the stage before it has nothing");
        if (stage.depths > 0) fail(at, "m and L stand in one stage: depths read the output head");
        layout.stages_.emplace_back();
      } else if (letter == 'E') {
        if (layout.stages_.front().embedding) fail(at, "a second E");
        stage.embedding = true;
      } else if (letter == 't') {
        if (stage.depths > 0) fail(at, "a layer behind a depth: all t come before all m");
        ++stage.layers;
      } else if (letter == 'm') {
        ++stage.depths;
      } else {
        stage.head = true;
      }
    }

    std::string_view text_;
    std::size_t place_ = 0;
  };

  std::vector<Stage> stages_;
};

}  // namespace mtpx
