// mtpx bench --decode: plain and drafted decoding side by side, with the cost model of drafting.

#include "bench.hpp"
#include "drafting.hpp"
#include "pass_bytes.hpp"
#include "roofs.hpp"
#include "text.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <iostream>
#include <sstream>

namespace program {
namespace {

using mtpx::Index;
using Tokens = std::vector<std::int32_t>;

constexpr Index in_tree = -2;       // for a number of drafts: as many as --tree has places
constexpr std::size_t repeats = 3;  // of each prompt with each number of drafts
constexpr Index stretch = 32;       // tokens that one decodes before the next ones have their turn

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// The terms of the cost model: passes as decoding makes them, recorded where the device can, each with the
/// answer that it waits for. A pass of the trunk and the head over n rows, and, where tokens are not all that
/// is asked, the rule that settles them; of a module over n rows and the head over one, after such a pass,
/// whose weights it finds in the caches; and once more after itself.
struct Costs {
  using Times = std::vector<double>;
  Index most_drafts, modules;  // modules that draft
  Times one{};                 // a pass of plain decoding
  std::vector<Times> rows;     // [n], to most_drafts + 1
  std::vector<Times> draft;    // [n], as many as a module is fed: to most_drafts + modules
  Times draft_again{};

  Costs(Index most, Index drafting)
      : most_drafts(most),
        modules(std::min(most, drafting)),
        rows(static_cast<std::size_t>(most + 2)),
        draft(static_cast<std::size_t>(most + modules + 1)) {}

  /// Behind `context` tokens; options: how tokens are picked.
  template <typename T, typename D>
  void measure(const mtpx::Transformer<T, D>& model, mtpx::GenerateOptions options, const Tokens& text,
               Index context, int rounds) {
    using mtpx::Answer;
    const Index most_rows = most_drafts + modules;
    const bool cuts = options.sampling.cuts(model.config.vocab_size);
    const Answer picked = options.sampling.greedy() ? Answer::tokens
                          : cuts                    ? Answer::raced_cut
                                                    : Answer::raced;
    options.draft = mtpx::GenerateOptions::automatic;
    const Answer settled = options.same_text() ? picked : Answer::kept;
    const auto token = [&](Index p) {  // behind the text it begins again: what it is costs nothing
      return text[static_cast<std::size_t>(p % static_cast<Index>(text.size()))];
    };
    const auto list_of = [&](Index begin, Index count, Index ahead) {
      mtpx::RowList list;
      for (Index p = begin; p < begin + count; ++p) list.add(token(p + ahead), 0, p);
      return list;
    };
    // Passes of their own, which have read the text, and what rows behind it find there.
    const auto read = [&](mtpx::Passes<T, D>& passes, bool drafts) {
      const Index end = context + most_rows;
      for (Index begin = 0; begin < end; begin += 256) {
        const Index count = std::min<Index>(256, end - begin);
        passes.trunk(list_of(begin, count, 0), 0, count, Answer::nothing, 0);
        if (drafts) passes.module(1, false, list_of(begin, count, 1), 0, count, Answer::nothing, 0);
      }
    };
    const Index positions = context + most_rows + 1;
    std::vector<mtpx::Draw> draws;
    std::vector<std::int32_t> kept;  // rows of the table: of the main model's distributions, then of drafts'
    for (Index i = 0; i <= most_rows; ++i) {
      draws.push_back({options.sampling, 0.5, {1, static_cast<std::uint64_t>(i)}});
      kept.push_back(static_cast<std::int32_t>(i));
    }
    const auto draws_of = [&](Index count, Index first = 0) {
      return mtpx::Draws{
          std::span(draws).first(static_cast<std::size_t>(count)),
          std::span(kept).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count))};
    };
    // Each several times in a row, as decoding would run it; the first times find the caches as others left
    // them, and are recorded.
    constexpr int untimed = 3;
    const auto timed = [&](int round, Times& times, const auto& body) {
      const auto start = Clock::now();
      body();
      if (round >= untimed) times.push_back(seconds_since(start));
    };
    {
      mtpx::Passes<T, D> passes(model, 1, positions, 0, 256, 1, 0, 0);
      read(passes, false);
      const mtpx::RowList list = list_of(context, 1, 0);
      for (int round = 0; round < untimed + rounds; ++round)
        timed(round, one, [&] { passes.trunk(list, 0, 1, picked, 1, draws_of(1)); });
    }
    if (modules == 0) return;
    mtpx::Passes<T, D> passes(model, 1, positions, 1, 256, most_rows + 1, most_rows + 1, 0);
    read(passes, true);
    mtpx::RoundList drafted(most_drafts);
    const auto settle = [&](Index drafts) {  // all from one distribution: what they are costs nothing
      drafted.clear();
      const std::vector<std::int32_t> tokens(static_cast<std::size_t>(drafts), token(context));
      const auto number = [](std::size_t) { return 0.5; };
      drafted.add(tokens, 0, options.verification == mtpx::Verification::lossy_typical ? -1 : 0, number,
                  number);
      passes.settle({options.verification, options.typical_epsilon, options.typical_delta}, drafted);
    };
    for (Index n = 1; n <= most_rows; ++n) {
      const Index checked = std::min(n, most_drafts + 1);
      const mtpx::RowList list = list_of(context, checked, 0), told = list_of(context, n, 1);
      mtpx::RowList again;
      again.add(token(context + n + 1), 0, context + n, context + n, 0);
      for (int round = 0; round < untimed + rounds; ++round) {
        timed(round, rows[static_cast<std::size_t>(checked)], [&] {
          passes.trunk(list, 0, checked, settled, checked, draws_of(checked));
          if (settled == Answer::kept) settle(checked - 1);
        });
        timed(round, draft[static_cast<std::size_t>(n)],
              [&] { passes.module(1, false, told, 0, n, settled, 1, draws_of(1, most_rows)); });
        if (!model.design.chains) continue;
        timed(round, draft_again,
              [&] { passes.module(1, true, again, 0, 1, settled, 1, draws_of(1, most_rows)); });
      }
    }
  }
};

struct Prompts {
  struct Prompt {
    Tokens text;    // and what follows it, where that is known
    Index context;  // tokens of the prompt itself
  };
  std::vector<Prompt> all;
  std::vector<Index> counts;  // of each id in the text beside; none: there is none
  bool known = false;         // whether they are text, with what follows

  Index longest() const {
    Index most = 0;
    for (const Prompt& prompt : all) most = std::max(most, prompt.context);
    return most;
  }
};

/// The lines of a file.
Prompts read_prompts(const DecodeBench& o, const mtpx::Tokenizer& tokenizer) {
  Prompts prompts;
  std::istringstream lines(mtpx::InputFile("bench", o.prompts).read_text(Index{1} << 28));
  for (std::string line; std::getline(lines, line);) {
    Tokens ids = prompt_ids(line, tokenizer);
    if (line.empty() || ids.size() < 2) continue;
    const auto context = static_cast<Index>(ids.size());
    prompts.all.push_back({std::move(ids), context});
  }
  if (prompts.all.empty())
    throw mtpx::ConfigError(
        mtpx::cat("[bench] --prompts ", o.prompts, ": has no line of two tokens at least"));
  return prompts;
}

/// Prompts of `context` tokens, evenly spaced over the text that training held out, each with the tokens that
/// follow it; or those of a file. Random weights with another vocabulary than bytes get random ids.
Prompts make_prompts(const DecodeBench& o, const mtpx::Config& c) {
  Prompts prompts;
  const Index length = o.context + o.tokens;
  Index count = 0;
  const char* const end = o.prompts.data() + o.prompts.size();
  const auto [last, failed] = std::from_chars(o.prompts.data(), end, count);
  const bool counted = failed == std::errc{} && last == end && count > 0;
  if (o.model.folder.empty() && c.vocab_size != 256) {
    for (Index i = 0; i < (counted ? count : 1); ++i) {
      Prompts::Prompt& prompt = prompts.all.emplace_back(Prompts::Prompt{{}, o.context});
      for (Index j = 0; j < length; ++j) {
        prompt.text.push_back(static_cast<std::int32_t>(
            mtpx::Philox::block(1, static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j))[0] %
            static_cast<std::uint32_t>(c.vocab_size)));
      }
    }
    return prompts;
  }
  const mtpx::Tokenizer tokenizer =
      o.model.folder.empty() ? mtpx::Tokenizer() : tokenizer_of(o.model.folder, c, o.model.options());
  if (!counted) return read_prompts(o, tokenizer);
  const mtpx::Tokens text = TextData(o.data).ids(tokenizer).tokens;
  const mtpx::TokenSplit parts = o.validation < 1 ? text.split(o.validation) : mtpx::TokenSplit{text, text};
  const mtpx::ValidationWindows windows(parts.validation, {1, length, count, 0});
  for (Index i = 0; i < windows.size(); ++i) {
    Tokens ids = windows.at(i).tokens;
    ids.resize(static_cast<std::size_t>(length));
    prompts.all.push_back({std::move(ids), o.context});
  }
  if (prompts.all.empty()) {
    throw mtpx::ConfigError(mtpx::cat("[bench] --context ", o.context, " and --tokens ", o.tokens,
                                      ": the text that is held out has no window of ", length + 1,
                                      " tokens"));
  }
  prompts.counts = id_counts(parts.train, c.vocab_size);
  prompts.known = true;
  return prompts;
}

/// One number of drafts over all prompts.
struct Measured {
  mtpx::DecodeStatistics statistics;
  double seconds = 0;         // of each prompt's median run, together
  double tokens = 0;          // ... and what that run emitted
  double prompt_seconds = 0;  // of reading prompts, in all runs
  double prompt_tokens = 0;
  Repetition repetition{};

  double rate() const { return tokens / seconds; }
  bool repeats() const { return repetition.share() > repeats_above; }

  /// runs: seconds and tokens of several runs of a prompt
  void add(std::vector<std::pair<double, Index>> runs) {
    const auto middle = runs.begin() + static_cast<std::ptrdiff_t>(runs.size() / 2);
    std::nth_element(runs.begin(), middle, runs.end(), [](const auto& a, const auto& b) {
      return a.first * static_cast<double>(b.second) < b.first * static_cast<double>(a.second);
    });
    seconds += middle->first;
    tokens += static_cast<double>(middle->second);
  }
};

/// All numbers of drafts at one temperature.
struct Rows {
  double temperature = 0;
  std::vector<Index> ks;
  std::vector<Measured> all;  // of each
  Measured control;           // plain decoding once more: what such rows differ by themselves
  Costs costs;
  Agreement agreement;  // none: prompts are no text
};

template <typename T, typename D>
Rows measure(const DecodeBench& o, const mtpx::Transformer<T, D>& model, const Prompts& prompts,
             double temperature) {
  Rows rows{temperature,
            {0},
            {},
            {},
            Costs(o.most_drafts, model.design.drafting(model.config.num_nextn_predict_layers)),
            {}};
  mtpx::GenerateOptions options = o.rules;
  options.sampling.temperature = temperature;
  const Index modules = model.config.num_nextn_predict_layers;
  if (modules > 0) {
    // Depths that chain can run again; others draft a token each.
    const Index most = model.design.chains ? o.most_drafts : std::min(o.most_drafts, modules);
    for (Index k = 1; k <= most; ++k) rows.ks.push_back(k);
    if (options.same_text()) rows.ks.push_back(mtpx::GenerateOptions::automatic);
    if (options.branches()) rows.ks.push_back(in_tree);
  }
  const std::size_t count = rows.ks.size();
  rows.all.resize(count);
  std::vector<std::optional<mtpx::Speculator<T, D>>> decoders(count + 1);
  for (std::size_t i = 0; i <= count; ++i) {
    const Index k = i < count ? rows.ks[i] : 0;
    const bool tree = k == in_tree;
    options.tree = tree || k < 0 ? o.rules.tree : std::vector<Index>();
    options.draft = tree ? static_cast<Index>(o.rules.tree.size()) : k;
    decoders[i].emplace(model, options, 1, prompts.longest() + o.tokens + o.room());
  }
  // All in turn, a stretch of each text at a time, forwards and backwards, each as often the first: whatever
  // else slows the machine down hits all of them, and each finds the caches as another one left them.
  for (std::size_t p = 0; p < prompts.all.size(); ++p) {
    const auto& [text, context] = prompts.all[p];
    const auto prompt = std::span(text).first(static_cast<std::size_t>(context));
    rows.costs.measure(model, options, text, context + o.tokens / 2, 8);
    std::vector<std::vector<std::pair<double, Index>>> runs(count + 1);
    for (std::size_t repeat = 0; repeat < repeats; ++repeat) {
      const auto of = [&](std::size_t i) -> Measured& { return i < count ? rows.all[i] : rows.control; };
      for (std::size_t i = 0; i <= count; ++i) {
        const auto begin = Clock::now();
        decoders[i]->add(prompt, p);
        of(i).prompt_seconds += seconds_since(begin);
        of(i).prompt_tokens += static_cast<double>(context);
        decoders[i]->step();  // not timed: where drafts are cheap enough, modules first read the prompt's end
        runs[i].emplace_back(0.0, -static_cast<Index>(decoders[i]->tokens().size()));
      }
      const bool backwards = (p + repeat) % 2 == 1;
      std::size_t first = 0;
      for (Index end = 0; end < o.tokens; ++first) {
        end = std::min(end + stretch, o.tokens);
        for (std::size_t turn = 0; turn <= count; ++turn) {
          const std::size_t forwards = (first + turn) % (count + 1),
                            i = backwards ? count - forwards : forwards;
          const auto start = Clock::now();
          while (static_cast<Index>(decoders[i]->tokens().size()) < context + end) decoders[i]->step();
          runs[i].back().first += seconds_since(start);
        }
      }
      for (std::size_t i = 0; i <= count; ++i) {
        runs[i].back().second += static_cast<Index>(decoders[i]->tokens().size());
        of(i).repetition.add(decoders[i]->tokens(), context);
        decoders[i]->remove(0);
      }
    }
    for (std::size_t i = 0; i < count; ++i) rows.all[i].add(std::move(runs[i]));
    rows.control.add(std::move(runs[count]));
  }
  for (std::size_t i = 0; i < count; ++i) rows.all[i].statistics = decoders[i]->statistics();
  if (prompts.known) {
    std::vector<Tokens> texts;
    for (const Prompts::Prompt& prompt : prompts.all) texts.push_back(prompt.text);
    rows.agreement = agreement(model, texts, temperature);
  }
  return rows;
}

std::string percent(const std::vector<double>& shares) {
  std::string text;
  for (const double share : shares) text += mtpx::cat(text.empty() ? "" : ", ", fixed(100 * share, 0), " %");
  return text;
}

/// Lines for people: speed, and how many of the first, second, .. drafts stood.
void print_table(const Rows& rows, bool past_window) {
  const Measured& plain = rows.all[0];
  std::cout << (rows.temperature > 0 ? mtpx::cat("temperature ", rows.temperature) : std::string("greedy"))
            << ": " << fixed(plain.rate(), 0) << " tokens/s without drafts, "
            << fixed(plain.prompt_tokens / plain.prompt_seconds, 0) << " of prompts; once more "
            << fixed(rows.control.rate() / plain.rate(), 3) << " x; "
            << fixed(100 * plain.repetition.share(), 0) << " % of 8-grams repeat"
            << (plain.repeats() ? mtpx::cat(", above ", fixed(100 * repeats_above, 0), " %: easily drafted")
                                : "")
            << (past_window ? "; past the trained window" : "") << '\n';
  if (!rows.agreement.likeliest.empty())
    std::cout << "  depths, given true tokens: as the main head " << percent(rows.agreement.likeliest)
              << "; sum min(p, q) " << percent(rows.agreement.overlap) << '\n';
  for (std::size_t i = 1; i < rows.ks.size(); ++i) {
    const mtpx::DecodeStatistics& s = rows.all[i].statistics;
    const Index k = rows.ks[i];
    std::cout << (k == in_tree ? "  tree          "
                  : k < 0      ? "  as many as pay"
                  : k == 1     ? "  1 draft       "
                               : mtpx::cat("  ", k, " drafts      "))
              << "  " << fixed(rows.all[i].rate() / plain.rate(), 2) << " x   "
              << fixed(s.tokens_per_pass(), 2) << " tokens a pass   stood:";
    for (std::size_t j = 0; j < s.accepted.size(); ++j)
      std::cout << ' ' << fixed(100 * s.acceptance(j), 0) << " %";
    std::cout << '\n';
  }
  std::cout << std::flush;
}

std::vector<double> rounded_all(const std::vector<double>& values) {
  std::vector<double> all;
  for (const double value : values) all.push_back(rounded(value, 3));
  return all;
}

/// The terms of the cost model of K drafts, and what it promises:
/// (1 + accepted per pass) / (verify(K + 1 rows) / one row + K draft / one row). Module k is fed what the
/// last round accepted and the k drafts before its own.
void add_cost_model(mtpx::Json& line, const Rows& rows, std::size_t i) {
  const mtpx::DecodeStatistics& s = rows.all[i].statistics;
  const Index k = rows.ks[i];
  const double one = median(rows.costs.one);
  const double verify = median(rows.costs.rows[static_cast<std::size_t>(k + 1)]) / one;
  const Index distinct = std::min(k, rows.costs.modules);  // modules; the last one runs again
  double drafts = k > distinct ? static_cast<double>(k - distinct) * median(rows.costs.draft_again) : 0;
  for (std::size_t a = 0; a < s.histogram.size(); ++a) {
    const double share = static_cast<double>(s.histogram[a]) / static_cast<double>(s.drafts);
    for (Index module = 1; module <= distinct; ++module)
      drafts += share * median(rows.costs.draft[a + static_cast<std::size_t>(module)]);
  }
  const double draft = drafts / static_cast<double>(k) / one;
  const double cost = verify + static_cast<double>(k) * draft;
  line["verify_ratio"] = rounded(verify, 3);
  line["draft_ratio"] = rounded(draft, 3);
  line["model_speedup"] = rounded(s.mean_length() / cost, 3);
  line["share_of_model"] = rounded(rows.all[i].rate() / rows.all[0].rate() / (s.mean_length() / cost), 3);
  line["break_even_length"] = rounded(cost, 3);
}

/// A JSON line for each number of drafts.
template <typename T, typename D>
void print_lines(const DecodeBench& o, const mtpx::Transformer<T, D>& model, const Prompts& prompts,
                 const Rows& rows, bool past_window) {
  const mtpx::Config& c = model.config;
  const double plain = rows.all[0].rate();
  for (std::size_t i = 0; i < rows.ks.size(); ++i) {
    const Measured& m = rows.all[i];
    mtpx::Json line{{"mode", "decode"},
                    {"draft", rows.ks[i] == in_tree ? mtpx::Json(o.rules.tree)
                              : rows.ks[i] < 0      ? mtpx::Json("auto")
                                                    : mtpx::Json(rows.ks[i])},
                    {"temperature", rows.temperature},
                    {"tokens_per_s", rounded(m.rate(), 1)},
                    {"prompt_tokens_per_s", rounded(m.prompt_tokens / m.prompt_seconds, 1)},
                    {"repeated_8grams", rounded(m.repetition.share(), 3)},
                    {"repeats", m.repeats()},
                    {"past_trained_window", past_window}};
    if (i == 0) {
      const double bytes = bytes_per_pass(model, 1, prompts.longest() + o.tokens / 2);
      const double roof = read_rate(model.device(), bytes);
      line["context"] = prompts.longest();
      line["prompts"] = prompts.all.size();
      line["device"] = device_name(model.device());
      line["dtype"] = dtype_name<T>();
      line["us_per_token"] = rounded(1e6 / plain, 1);
      line["control"] = rounded(rows.control.rate() / plain, 3);
      line["us_one_row"] = rounded(1e6 * median(rows.costs.one), 1);
      line["mb_per_token"] = rounded(bytes / 1e6, 2);
      line["gbs"] = rounded(bytes * plain / 1e9, 2);
      line["read_gbs"] = rounded(roof / 1e9, 2);
      line["read_share"] = rounded(bytes * plain / roof, 3);
      if (c.mtpx_draft_vocabulary > 0) line["draft_vocabulary"] = c.mtpx_draft_vocabulary;
      if (!rows.agreement.likeliest.empty()) {
        line["agreement"] = rounded_all(rows.agreement.likeliest);
        line["sum_min_p_q"] = rounded_all(rows.agreement.overlap);
      }
      name_device(line, model.device());
    } else {
      const mtpx::DecodeStatistics& s = m.statistics;
      std::vector<double> acceptance;
      for (std::size_t j = 0; j < s.accepted.size(); ++j) acceptance.push_back(s.acceptance(j));
      line["speedup"] = rounded(m.rate() / plain, 3);
      line["acceptance"] = rounded_all(acceptance);
      line["mean_length"] = rounded(s.mean_length(), 3);
      line["passes"] = s.passes;
      line["drafts"] = s.drafts;
      add_draft_counts(line, s);
      if (rows.ks[i] > 0) add_cost_model(line, rows, i);
    }
    std::cout << line.dump() << std::endl;
    if (!written()) return;
  }
}

template <typename T, typename D>
void run(const DecodeBench& o, const D& device) {
  mtpx::Transformer<T, D> model = decoding_model<T>(o, device);
  const mtpx::Config& c = model.config;
  const auto check_room = [&](Index context) {
    if (context + o.tokens + o.room() > c.max_position_embeddings) {
      throw mtpx::ConfigError(mtpx::cat("[bench] --context ", context, " and --tokens ", o.tokens,
                                        ": max_position_embeddings = ", c.max_position_embeddings));
    }
  };
  check_room(o.context);
  const Prompts prompts = make_prompts(o, c);
  check_room(prompts.longest());
  o.draft_vocabulary.set(model, prompts.counts);
  const bool past_window = past_trained_window(c, prompts.longest() + o.tokens);
  for (const double temperature : o.temperatures) {
    const Rows rows = measure(o, model, prompts, temperature);
    if (o.table) {
      print_table(rows, past_window);
    } else {
      print_lines(o, model, prompts, rows, past_window);
    }
    if (!written()) return;
  }
}

}  // namespace

void bench_decode(const DecodeBench& o) {
  with_numbers(o.device, [&](auto number, const auto& device) { run<decltype(number)>(o, device); });
}

}  // namespace program
