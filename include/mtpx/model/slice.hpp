#pragma once

#include <mtpx/core/shape.hpp>

namespace mtpx {

/// What a model has where it is a part of one: a stage of a pipeline. Parts keep their published names and
/// layers their numbers, so the slices of a model hold its parameters, each once.
///
/// Experts have one owner, too, where ranks share them out: then each of these has the rest of the slice.
/// The embedding has one owner, which looks up the depths' tokens, too; the output head has one, and with it
/// stand the final norm and all depths, which read both.
struct ModelSlice {
  bool embedding = true;   ///< it begins with model.embed_tokens, else with the state of the slice before
  Index begin = 0;         ///< its first layer
  Index end = 0;           ///< the layer behind its last one
  bool head = true;        ///< it ends with the final norm, the output head and the depths
  Index expert_part = 0;   ///< which part of the experts of every mixture it has
  Index expert_parts = 1;  ///< of how many equal ones

  /// Of a model with so many layers, all.
  static ModelSlice whole(Index layers) { return {true, 0, layers, true}; }

  /// The same with one of `parts` equal parts of the experts of every mixture.
  ModelSlice with_experts(Index part, Index parts) const {
    ModelSlice some = *this;
    some.expert_part = part;
    some.expert_parts = parts;
    return some;
  }

  bool operator==(const ModelSlice&) const = default;
};

}  // namespace mtpx
