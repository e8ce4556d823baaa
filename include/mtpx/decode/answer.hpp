#pragma once

namespace mtpx {

/// What a pass is asked about its last rows. In this order: where rows want different ones of tokens to
/// drawn, the last of these serves them all.
enum class Answer {
  nothing,
  tokens,     ///< the most likely ones: nothing else leaves the device
  raced,      ///< the tokens that win races, each row as its Draw says: without top-k and top-p
  raced_cut,  ///< the same, with or without
  led,        ///< the same, and by how much each won; of devices with host memory
  drawn,      ///< tokens drawn, each row as its Draw says
  kept,       ///< the same, and what they were drawn from stays on the device, in given rows of a table
  logits      ///< what tokens are picked from, for a caller who picks them
};

}  // namespace mtpx
