#pragma once
// What bench and compare tell of drafts beside their speed, so that a figure can be trusted: how well depths
// say what the main head says, over text that nobody trained on, and how much of what was generated only
// repeats.

#include "model.hpp"
#include "repetition.hpp"

#include <vector>

namespace program {

/// How well depths say what the main head says of the same place, each given true tokens; [k - 1] of depth k.
struct Agreement {
  std::vector<double> likeliest;  ///< share of places where the two heads' likeliest tokens are equal
  std::vector<double> overlap;    ///< mean of sum_x min(p(x), q(x)): the most drafts that any rule lets stand
};

/// The same over texts, with distributions as a temperature makes them (0: one-hot). Drafts' are over the
/// tokens that they are picked from.
template <typename T, typename D>
Agreement agreement(const mtpx::Transformer<T, D>& model, const std::vector<std::vector<std::int32_t>>& texts,
                    double temperature) {
  using mtpx::Index;
  const D& device = model.device();
  const Index depths = model.config.num_nextn_predict_layers, vocab = model.config.vocab_size;
  if (depths == 0) return {};
  const mtpx::TokenHead<T, D> main = model.head(0), drafts = mtpx::DraftingModel<T, D>(model).draft_head(1);
  std::vector<double> same(static_cast<std::size_t>(depths)), shared(same), places(same);
  for (const auto& text : texts) {
    const auto time = static_cast<Index>(text.size()) - 1;
    mtpx::Tape tape(mtpx::Mode::inference);
    const auto out =
        model(tape, {mtpx::Tensor<std::int32_t, D>::from(device, {1, time + 1}, text), {}, false});
    struct Said {
      std::vector<double> p;          // [rows, V]
      std::vector<std::int32_t> ids;  // the likeliest
    };
    const auto say = [&](const mtpx::Tensor<T, D>& states, const mtpx::TokenHead<T, D>& head) {
      const Index rows = states.rows().count;
      const mtpx::Tensor<T, D> x = states.reshape({rows, model.config.hidden_size});
      std::vector<std::int32_t> numbers;
      for (Index r = 0; r < rows; ++r) numbers.push_back(static_cast<std::int32_t>(r));
      const std::vector<mtpx::Draw> how(static_cast<std::size_t>(rows), mtpx::Draw{{temperature}});
      const mtpx::Tensor<double, D> table(device, {rows, vocab});
      const mtpx::Tensor<std::int32_t, D> ids(device, {rows});
      const auto at = mtpx::Tensor<std::int32_t, D>::from(device, {rows}, numbers);
      mtpx::draw_tokens(x, head, mtpx::Tensor<mtpx::Draw, D>::from(device, {rows}, how), ids,
                        mtpx::Kept{table.data(), at.data()});
      mtpx::choose_tokens(x, head, ids);
      return Said{table.to_host(), ids.to_host()};
    };
    const Said of_main = say(out.normed[0].value(), main);
    for (std::size_t k = 1; k < out.normed.size(); ++k) {
      const Said of_depth = say(out.normed[k].value(), drafts);
      const double *q = of_depth.p.data(), *p = of_main.p.data() + static_cast<Index>(k) * vocab;
      for (const double* const end = q + of_depth.p.size(); q != end; ++q, ++p)
        shared[k - 1] += *p < *q ? *p : *q;
      for (std::size_t i = 0; i < of_depth.ids.size(); ++i)
        same[k - 1] += of_main.ids[i + k] == of_depth.ids[i] ? 1 : 0;
      places[k - 1] += static_cast<double>(of_depth.ids.size());
    }
  }
  Agreement all;
  for (std::size_t k = 0; k < places.size() && places[k] > 0; ++k) {
    all.likeliest.push_back(same[k] / places[k]);
    all.overlap.push_back(shared[k] / places[k]);
  }
  return all;
}

/// Tokens that were drafted, and those of them that stood.
struct DraftCounts {
  mtpx::Index drafted = 0, stood = 0;

  explicit DraftCounts(const mtpx::DecodeStatistics& s) {
    drafted = s.nodes;
    for (const mtpx::Index n : s.accepted) stood += n;
  }
};

/// Adds them under the names that llama.cpp gives them.
inline void add_draft_counts(mtpx::Json& line, const mtpx::DecodeStatistics& s) {
  const DraftCounts counts(s);
  line["draft_n"] = counts.drafted;
  line["draft_n_accepted"] = counts.stood;
}

/// Whether `tokens` are more than the longest window that the model was trained on, where that is known.
inline bool past_trained_window(const mtpx::Config& config, mtpx::Index tokens) {
  return config.mtpx_trained_window > 0 && tokens > config.mtpx_trained_window;
}

}  // namespace program
