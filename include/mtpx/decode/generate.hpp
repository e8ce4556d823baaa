#pragma once

#include <mtpx/decode/speculator.hpp>

namespace mtpx {

/// Continues a prompt. `on_token(token)` is called for every emitted token, in order, as soon as a pass
/// settled it; return false from it to stop. Ends after max_tokens, after the stop token, or when the context
/// (max_position_embeddings) is full.
///
/// Returns the counts of the run; tokens after the end inside an accepted draft are neither emitted nor
/// counted.
template <typename T, typename D, typename OnToken>
DecodeStatistics generate(const Transformer<T, D>& model, const std::vector<std::int32_t>& prompt,
                          const GenerateOptions& options, const OnToken& on_token) {
  Speculator<T, D> speculator(model, options);
  Index emitted = 0;
  bool open = options.max_tokens > 0;
  const auto emit = [&](std::int32_t token) {
    if (!open) return;
    ++emitted;
    open = static_cast<bool>(on_token(token)) && token != options.stop && emitted < options.max_tokens;
  };
  if (open) emit(speculator.start(prompt));
  while (open) {
    const std::vector<std::int32_t> tokens = speculator.step();
    if (tokens.empty()) break;
    for (const std::int32_t token : tokens) emit(token);
  }
  DecodeStatistics statistics = speculator.statistics();
  statistics.tokens = emitted;
  return statistics;
}

}  // namespace mtpx
