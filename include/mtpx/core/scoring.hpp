#pragma once

namespace mtpx {

/// How a router judges experts, by the name that config.json has for it.
enum class ScoringFunc {
  sigmoid,  ///< each by itself; a bias steers the choice, and a group is worth its two best (DeepSeek-V3 Eq.
            ///< 15)
  softmax   ///< against each other, without a bias; a group is worth its best (DeepSeek-V2 Eq. 20-22,
            ///< sec. 2.2.2)
};

}  // namespace mtpx
