#pragma once
// Models whose continuations are known by heart, for tests of decoding.

#include "support/model.hpp"

#include <cstdlib>

namespace mtpx::test {

/// Of how many prompts texts are compared: MTPX_TEST_PROMPTS, over the six that there is time for in every
/// run.
inline std::uint64_t prompts_wanted() {
  const char* const wanted = std::getenv("MTPX_TEST_PROMPTS");
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 6;
}

/// Counts: after token t comes t + 1, after the last one 0. Attention and feed-forward layers add nothing,
/// embedding and head are (almost) unit matrices. Modules named in `right` draft the truth; the others draft
/// t + 2 where t + 1 would be right.
inline Transformer<double, Device> counting_model(Index vocab, const std::vector<bool>& right,
                                                  Index longest = 64) {
  Config c = dense_config(static_cast<Index>(right.size()));
  c.vocab_size = vocab;
  c.hidden_size = vocab;
  c.num_hidden_layers = 1;
  c.max_position_embeddings = longest;
  Transformer<double, Device> model(device(), c);
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    const Shape shape = tensor.shape();
    Numbers values(static_cast<std::size_t>(shape.size()), 0.0);
    const auto set = [&](Index row, Index column) {
      values[static_cast<std::size_t>(row * shape.width() + column)] = 1;
    };
    if (name.ends_with("norm.weight")) std::fill(values.begin(), values.end(), 1.0);
    for (Index t = 0; t < vocab; ++t) {
      if (name == "model.embed_tokens.weight") set(t, t);
      if (name == "lm_head.weight") set((t + 1) % vocab, t);
      if (name.ends_with("eh_proj.weight")) {  // [vocab, embedding | hidden]: the embedding alone
        const auto module = static_cast<std::size_t>(std::stoi(name.substr(13)) - 1);
        set(right[module] ? t : (t + 1) % vocab, t);
      }
    }
    tensor.assign(values);
  });
  return model;
}

/// A model that says the same of every place: the trunk p and its module q, given as logits.
inline Transformer<double, Device> constant_model(const Numbers& p, const Numbers& q) {
  Config c = dense_config(1);
  c.vocab_size = static_cast<Index>(p.size());
  c.hidden_size = 2;
  c.num_hidden_layers = 1;
  Transformer<double, Device> model(device(), c);
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    Numbers values(static_cast<std::size_t>(tensor.size()), name.ends_with("norm.weight") ? 1.0 : 0.0);
    if (name == "model.embed_tokens.weight") std::fill(values.begin(), values.end(), 1.0);
    if (name == "model.norm.weight") values = {1, 0};
    if (name.ends_with("shared_head.norm.weight")) values = {0, 1};
    if (name == "lm_head.weight") {  // [V, 2]
      for (std::size_t x = 0; x < p.size(); ++x) {
        values[2 * x] = p[x];
        values[2 * x + 1] = q[x];
      }
    }
    if (name.ends_with("eh_proj.weight")) values[0] = values[5] = 1;  // [2, embedding | hidden]
    tensor.assign(values);
  });
  return model;
}

/// What the model says about every position of `tokens`, by the pass that training uses: logits of depth k,
/// [tokens - k][vocab]. Depth 0 is the main head.
inline std::vector<Numbers> logits(const Transformer<double, Device>& model,
                                   const std::vector<std::int32_t>& tokens, Index depth = 0) {
  std::vector<std::int32_t> padded = tokens;
  padded.push_back(0);  // the label of the last token, which nobody reads
  Tape tape(Mode::inference);
  const auto out =
      model(tape, {tensor<std::int32_t>({1, static_cast<Index>(padded.size())}, padded), {}, false});
  const Numbers all = host(linear(out.normed[static_cast<std::size_t>(depth)], model.head(depth)).value());
  std::vector<Numbers> rows;
  const auto vocab = static_cast<std::ptrdiff_t>(model.config.vocab_size);
  for (auto at = all.begin(); at != all.end(); at += vocab) rows.emplace_back(at, at + vocab);
  return rows;
}

}  // namespace mtpx::test
