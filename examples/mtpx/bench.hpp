#pragma once

#include "text.hpp"

#include <mtpx/nn/pack.hpp>

namespace program {

/// `mtpx bench --decode`: plain and drafted decoding side by side.
struct DecodeBench {
  ModelSource model;  ///< without a folder: random weights for `config`
  ConfigSource config;
  DraftVocabulary draft_vocabulary;
  std::vector<std::string> data;
  mtpx::Index context = 512;
  mtpx::Index tokens = 64;
  mtpx::Index most_drafts = 4;
  std::string prompts = "8";  ///< how many, or a file
  double validation = 0.1;    ///< share of the text that prompts come from
  std::vector<double> temperatures{0, 0.8, 1};
  std::vector<mtpx::Index> sequences;  ///< numbers of them to decode side by side instead
  bool table = false;                  ///< lines for people instead of JSON
  mtpx::GenerateOptions rules;         ///< how drafts are picked and checked
  DeviceOptions device;

  /// Positions that a pass may need behind a text.
  mtpx::Index room() const {
    return 2 * most_drafts + 2 +
           (rules.branches() ? rules.nodes(static_cast<mtpx::Index>(rules.tree.size())) : 0);
  }
};

/// The folder's model, or one of random weights, as decoding wants it.
template <typename T, typename D>
mtpx::Transformer<T, D> decoding_model(const DecodeBench& o, const D& device) {
  if (!o.model.folder.empty()) return o.model.load<T>(device).model;
  mtpx::Transformer<T, D> model(device, o.config.read().config);
  mtpx::initialize(model, 0);
  mtpx::pack_for_decoding(model);
  return model;
}

void bench_decode(const DecodeBench& o);
void bench_sequences(const DecodeBench& o);

}  // namespace program
