#pragma once

#include <mtpx/core/callback.hpp>
#include <mtpx/decode/speculator.hpp>

#include <concepts>
#include <functional>

namespace mtpx {

namespace detail {

/// Whether what was written ends with a stop token or sequence.
inline bool stops(const GenerateOptions& options, std::span<const std::int32_t> written) {
  if (std::find(options.stop.begin(), options.stop.end(), written.back()) != options.stop.end()) return true;
  return std::any_of(options.stop_sequences.begin(), options.stop_sequences.end(), [&](const auto& sequence) {
    return written.size() >= sequence.size() &&
           std::equal(sequence.begin(), sequence.end(),
                      written.end() - static_cast<std::ptrdiff_t>(sequence.size()));
  });
}

/// generate_batch() of any model.   on_token(prompt, token, log_probability): whether the prompt goes on
template <typename T, typename D>
DecodeStatistics generate_all(const DraftingModel<T, D>& model,
                              const std::vector<std::vector<std::int32_t>>& prompts, Index batch,
                              const GenerateOptions& options,
                              const std::function<bool(std::size_t, std::int32_t, double)>& on_token,
                              std::span<const SamplingOptions> sampling) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point from) {
    return std::chrono::duration<double>(Clock::now() - from).count();
  };
  if (batch < 1) throw ConfigError(cat("[generate] batch = ", batch, ": must be positive"));
  if (!sampling.empty() && sampling.size() != prompts.size()) {
    throw ConfigError(cat("[generate] sampling has ", sampling.size(), " entries for ", prompts.size(),
                          " prompts: must have one for each, or none"));
  }
  for (const SamplingOptions& one : sampling) options.validate(model.config.num_nextn_predict_layers, one);
  std::size_t longest = 0;
  for (const auto& prompt : prompts) {
    if (prompt.empty()) throw ConfigError("[generate] the prompt is empty");
    longest = std::max(longest, prompt.size());
  }
  const Index context = model.config.max_position_embeddings;
  if (static_cast<Index>(longest) >= context) {
    throw ConfigError(cat("[generate] the prompt has ", longest,
                          " tokens, max_position_embeddings = ", context, " leaves room for ", context - 1));
  }
  const Index slots = std::clamp<Index>(batch, 1, std::max<Index>(1, static_cast<Index>(prompts.size())));
  // Room for a whole draft after the last token: the end of the text then cuts none of them short.
  const Index positions =
      std::min(context, static_cast<Index>(longest) + std::min(options.max_tokens, context) +
                            options.nodes(std::max<Index>(0, options.draft)));
  Speculator speculator(model, options, slots, positions);

  struct Run {
    std::size_t prompt = 0;
    Index emitted = 0;
    bool open = false;
  };
  std::vector<Run> runs(static_cast<std::size_t>(slots));
  Index emitted = 0;
  double prefill = 0, decode = 0;
  constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
  const auto deliver = [&](Index slot) {
    Run& run = runs[static_cast<std::size_t>(slot)];
    const std::span<const std::int32_t> tokens = speculator.emitted(slot);
    const std::span<const double> log_probabilities = speculator.log_probabilities(slot);
    for (std::size_t i = 0; i < tokens.size() && run.open; ++i) {
      ++run.emitted;
      ++emitted;
      const double log_p = log_probabilities.empty() ? unknown : log_probabilities[i];
      const bool wanted = on_token(run.prompt, tokens[i], log_p);
      const auto end = prompts[run.prompt].size() + static_cast<std::size_t>(run.emitted);
      const auto written =
          std::span(speculator.tokens(slot)).first(end).last(static_cast<std::size_t>(run.emitted));
      run.open = wanted && !detail::stops(options, written) && run.emitted < options.max_tokens;
    }
    run.open = run.open && !speculator.full(slot);
    if (!run.open) speculator.remove(slot);
  };
  std::size_t next = 0;
  Index open = 0;
  while (options.max_tokens > 0) {
    for (; next < prompts.size() && open < slots; ++next) {
      const auto start = Clock::now();
      const Index slot = speculator.add(prompts[next], options.seed + next,
                                        sampling.empty() ? options.sampling : sampling[next]);
      prefill += since(start);
      runs[static_cast<std::size_t>(slot)] = {next, 0, true};
      deliver(slot);
      open += runs[static_cast<std::size_t>(slot)].open ? 1 : 0;
    }
    if (open == 0) break;
    const auto start = Clock::now();
    speculator.step();
    decode += since(start);
    for (Index slot = 0; slot < slots; ++slot) {
      if (!runs[static_cast<std::size_t>(slot)].open) continue;
      deliver(slot);
      open -= runs[static_cast<std::size_t>(slot)].open ? 0 : 1;
    }
  }
  DecodeStatistics statistics = speculator.statistics();
  statistics.tokens = emitted;
  statistics.prefill_seconds = prefill;
  statistics.decode_seconds = decode;
  return statistics;
}

}  // namespace detail

/// Continues several prompts, `batch` of them at a time; the next one starts when one ends.
/// `on_token(prompt, token)`, or `on_token(prompt, token, log_probability)`, is called for every emitted
/// token, in order within a prompt, as soon as a pass settled it; return false from it to stop that prompt
/// (one that returns nothing never does). A prompt ends after max_tokens, after a stop token or sequence, or
/// when the context (max_position_embeddings) is full. Prompt i is sampled with seed options.seed + i and,
/// where there is one, by sampling[i]: its text is the one that it has alone.
///
/// sampling: one for each prompt; empty: options.sampling for all of them
///
/// Returns the counts of the run; tokens after the end inside an accepted draft are neither emitted nor
/// counted. Throws ConfigError for options, or a prompt, that the model cannot serve, before it emits
/// anything.
template <Drafts M, typename OnToken>
DecodeStatistics generate_batch(const M& model, const std::vector<std::vector<std::int32_t>>& prompts,
                                Index batch, const GenerateOptions& options, const OnToken& on_token,
                                std::span<const SamplingOptions> sampling = {}) {
  using T = typename M::value_type;
  using D = typename M::device_type;
  const auto deliver = [&](std::size_t prompt, std::int32_t token, double log_probability) {
    if constexpr (std::invocable<const OnToken&, std::size_t, std::int32_t, double>) {
      return detail::goes_on(on_token, prompt, token, log_probability);
    } else {
      return detail::goes_on(on_token, prompt, token);
    }
  };
  return detail::generate_all<T, D>(model, prompts, batch, options, deliver, sampling);
}

/// Continues one prompt: generate_batch() of it alone, with on_token(token) or on_token(token,
/// log_probability).
template <Drafts M, typename OnToken>
DecodeStatistics generate(const M& model, const std::vector<std::int32_t>& prompt,
                          const GenerateOptions& options, const OnToken& on_token) {
  if constexpr (std::invocable<const OnToken&, std::int32_t, double>) {
    return generate_batch(model, {prompt}, 1, options, [&](std::size_t, std::int32_t token, double log_p) {
      return on_token(token, log_p);
    });
  } else {
    return generate_batch(model, {prompt}, 1, options,
                          [&](std::size_t, std::int32_t token) { return on_token(token); });
  }
}

}  // namespace mtpx
