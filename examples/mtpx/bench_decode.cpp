// mtpx bench --decode: plain and drafted decoding side by side, with the cost model of drafting.

#include "bench.hpp"
#include "roofs.hpp"
#include "text.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>

namespace program {
namespace {

using mtpx::Index;
using Tokens = std::vector<std::int32_t>;

constexpr Index most_drafts = 4;
constexpr std::size_t repeats = 3;  // of each prompt with each number of drafts

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Weights and cache entries that one token of plain decoding reads.
template <typename T, typename D>
double bytes_per_token(const mtpx::Transformer<T, D>& model, Index context) {
  const mtpx::Config& c = model.config;
  double bytes =
      static_cast<double>(c.num_hidden_layers * context * (c.kv_lora_rank + c.qk_rope_head_dim)) * sizeof(T);
  mtpx::for_each_parameter(model, [&](const std::string& name, const auto& parameter) {
    if (name.starts_with("model.embed_tokens") && !c.tie_word_embeddings) return;  // a row of it
    for (Index k = 0; k < c.num_nextn_predict_layers; ++k) {
      if (name.starts_with(mtpx::cat("model.layers.", c.num_hidden_layers + k, '.'))) return;
    }
    const bool routed = name.find(".experts.") != std::string::npos;
    const double share =
        routed ? static_cast<double>(c.num_experts_per_tok) / static_cast<double>(c.n_routed_experts) : 1;
    bytes += share * static_cast<double>(parameter.value().bytes());
  });
  return bytes;
}

/// The terms of the cost model: a pass of the trunk and the head over n rows; of a module over n rows and the
/// head over one, after such a pass, whose weights it finds in the caches; and once more after itself.
struct Costs {
  using Times = std::vector<double>;
  std::vector<Times> rows{std::vector<Times>(most_drafts + 2)};   // [n]
  std::vector<Times> draft{std::vector<Times>(most_drafts + 2)};  // [n]
  Times draft_again;

  template <typename T, typename D>
  void measure(const mtpx::Transformer<T, D>& model, const Tokens& text, Index context, int rounds) {
    const D& device = model.device();
    mtpx::KvCache<T, D> cache(model, 1, context + most_drafts + 2,
                              std::min<Index>(1, model.config.num_nextn_predict_layers));
    mtpx::Tape tape(mtpx::Mode::inference);
    const auto pass = [&](Index begin, Index count) {
      mtpx::RowList list;
      for (Index p = begin; p < begin + count; ++p) list.add(text[static_cast<std::size_t>(p)], 0, p);
      const auto ids = mtpx::Tensor<std::int32_t, D>::from(device, {1, count}, list.tokens);
      const auto at = mtpx::decode_rows(device, list, 0, count);
      return model.decode(tape, ids, at, cache.trunk);
    };
    const auto head = [&](const mtpx::Tensor<T, D>& normed) {
      return mtpx::linear(tape.constant(normed), model.head(0)).value().to_host()[0];
    };
    for (Index begin = 0; begin < context; begin += 256) pass(begin, std::min<Index>(256, context - begin));
    // Each several times in a row, as decoding would run it; the first finds the caches as the last left
    // them.
    const auto timed = [](const auto& body) {
      const auto start = Clock::now();
      body();
      return seconds_since(start);
    };
    for (Index n = 1; n <= most_drafts + 1; ++n) {
      mtpx::RowList list;
      for (Index p = context; p < context + n; ++p) list.add(text[static_cast<std::size_t>(p + 1)], 0, p);
      mtpx::Tensor<T, D> carried;
      const auto verify = [&] {
        const auto h = pass(context, n);
        carried = h.carried.value();
        head(h.normed.value());
      };
      const auto draft_rows = [&](Index count) {
        const Index width = model.config.hidden_size;
        const auto rows_of = [&](const mtpx::Tensor<T, D>& x, Index begin, Index end) {
          return x.reshape({x.shape().rows(), width})
              .slice_front(begin, end)
              .reshape({1, end - begin, width});
        };
        const auto ids = mtpx::Tensor<std::int32_t, D>::from(
            device, {1, count}, std::span(list.tokens).first(static_cast<std::size_t>(count)));
        const auto h = model.decode_mtp(tape, 1, tape.constant(rows_of(carried, 0, count)), ids,
                                        mtpx::decode_rows(device, list, 0, count), cache.modules[0]);
        head(rows_of(h.normed.value(), count - 1, count));
      };
      verify();
      for (int round = 0; round < rounds; ++round) {
        rows[static_cast<std::size_t>(n)].push_back(timed(verify));
        if (n == 1 || model.config.num_nextn_predict_layers == 0)
          continue;  // plain decoding: one after the other
        draft[static_cast<std::size_t>(n)].push_back(timed([&] { draft_rows(n); }));
        draft_again.push_back(timed([&] { draft_rows(1); }));
      }
      if (n > 1 || model.config.num_nextn_predict_layers == 0) continue;
      for (int round = 0; round < rounds; ++round) {
        verify();
        draft[1].push_back(timed([&] { draft_rows(1); }));
      }
    }
  }
};

template <typename T, typename D>
mtpx::Transformer<T, D> make_model(const DecodeBench& o, const D& device) {
  if (!o.model.folder.empty()) return o.model.load<T>(device).model;
  mtpx::Transformer<T, D> model(device, o.config.read().config);
  mtpx::initialize(model, 0);
  return model;
}

/// Where the terms of the cost model are measured: half-way through what is decoded.
Index middle(const DecodeBench& o) { return o.context + o.tokens / 2; }

/// Prompts of `context` tokens, evenly spaced over the text, each with the tokens that follow it. Random
/// weights with another vocabulary than bytes get random ids.
std::vector<Tokens> make_prompts(const DecodeBench& o, const mtpx::Config& c) {
  std::vector<Tokens> prompts;
  const Index length = middle(o) + most_drafts + 2;
  if (o.model.folder.empty() && c.vocab_size != 256) {
    for (Index i = 0; i < o.prompts; ++i) {
      Tokens& ids = prompts.emplace_back();
      for (Index j = 0; j < length; ++j) {
        ids.push_back(static_cast<std::int32_t>(
            mtpx::Philox::block(1, static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j))[0] %
            static_cast<std::uint32_t>(c.vocab_size)));
      }
    }
    return prompts;
  }
  const mtpx::Tokenizer tokenizer =
      o.model.folder.empty() ? mtpx::Tokenizer() : tokenizer_of(o.model.folder, c);
  const mtpx::ValidationWindows windows(TextData(o.data).ids(tokenizer).tokens, {1, length, o.prompts, 0});
  for (Index i = 0; i < windows.size(); ++i) {
    Tokens ids = windows.at(i).tokens;
    ids.resize(static_cast<std::size_t>(length));
    prompts.push_back(std::move(ids));
  }
  if (prompts.empty()) {
    throw mtpx::ConfigError(
        mtpx::cat("[bench] --context ", o.context, ": the text has no window of ", length + 1, " tokens"));
  }
  return prompts;
}

/// One number of drafts over all prompts.
struct Measured {
  mtpx::DecodeStatistics statistics;
  double seconds = 0;  // of each prompt's median run, together
  double tokens = 0;   // ... and what that run emitted

  double rate() const { return tokens / seconds; }

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

/// The same as lines for people: speed, and how many of the first, second, .. drafts stood.
void print_table(const DecodeBench& o, const std::vector<Index>& ks, const std::vector<Measured>& all) {
  const double temperature = o.rules.sampling.temperature;
  std::cout << (temperature > 0 ? mtpx::cat("temperature ", temperature) : std::string("greedy")) << ": "
            << fixed(all[0].rate(), 0) << " tokens/s without drafts\n";
  for (std::size_t i = 1; i < ks.size(); ++i) {
    const mtpx::DecodeStatistics& s = all[i].statistics;
    std::cout << (ks[i] < 0    ? "  as many as pay"
                  : ks[i] == 1 ? "  1 draft       "
                               : mtpx::cat("  ", ks[i], " drafts      "))
              << "  " << fixed(all[i].rate() / all[0].rate(), 2) << " x   " << fixed(s.tokens_per_pass(), 2)
              << " tokens a pass   stood:";
    for (std::size_t j = 0; j < s.accepted.size(); ++j)
      std::cout << ' ' << fixed(100 * s.acceptance(j), 0) << " %";
    std::cout << '\n';
  }
  std::cout << std::flush;
  written();
}

template <typename T, typename D>
void run(const DecodeBench& o, const D& device) {
  const mtpx::Transformer<T, D> model = make_model<T>(o, device);
  const mtpx::Config& c = model.config;
  if (o.context + o.tokens + most_drafts + 2 > c.max_position_embeddings) {
    throw mtpx::ConfigError(mtpx::cat("[bench] --context ", o.context, " and --tokens ", o.tokens,
                                      ": max_position_embeddings = ", c.max_position_embeddings));
  }
  const std::vector<Tokens> prompts = make_prompts(o, c);
  std::vector<Index> ks{0};
  if (c.num_nextn_predict_layers > 0) {
    // Depths that chain can run again; others draft a token each.
    const Index most = model.design.chains ? most_drafts : std::min(most_drafts, c.num_nextn_predict_layers);
    for (Index k = 1; k <= most; ++k) ks.push_back(k);
    if (o.rules.same_text()) ks.push_back(mtpx::GenerateOptions::automatic);
  }
  // Everything in turn, prompt by prompt: whatever else slows the machine down hits all of them.
  Costs costs;
  std::vector<Measured> all(ks.size());
  std::vector<std::optional<mtpx::Speculator<T, D>>> decoders(ks.size());
  for (std::size_t i = 0; i < ks.size(); ++i) {
    mtpx::GenerateOptions options = o.rules;
    options.draft = ks[i];
    decoders[i].emplace(model, options, 1, o.context + o.tokens + most_drafts + 2);
  }
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    costs.measure(model, prompts[p], middle(o), 8);
    std::vector<std::vector<std::pair<double, Index>>> runs(ks.size());
    for (std::size_t turn = 0; turn < repeats * ks.size(); ++turn) {
      const std::size_t i = (turn + turn / ks.size() + p) % ks.size();  // each comes after each
      mtpx::Speculator<T, D>& decoder = *decoders[i];
      const Index slot = decoder.add(std::span(prompts[p]).first(static_cast<std::size_t>(o.context)), p);
      decoder.step();  // not timed: where drafts are cheap enough, modules first read the prompt's end
      const auto known = static_cast<Index>(decoder.tokens(slot).size());
      const auto start = Clock::now();
      while (static_cast<Index>(decoder.tokens(slot).size()) < o.context + o.tokens) decoder.step();
      runs[i].emplace_back(seconds_since(start), static_cast<Index>(decoder.tokens(slot).size()) - known);
      decoder.remove(slot);
    }
    for (std::size_t i = 0; i < ks.size(); ++i) all[i].add(std::move(runs[i]));
  }
  for (std::size_t i = 0; i < ks.size(); ++i) all[i].statistics = decoders[i]->statistics();
  if (o.table) return print_table(o, ks, all);
  const double one = median(costs.rows[1]);
  const double bytes = bytes_per_token(model, middle(o));
  const double roof = read_rate(device, bytes);
  const double plain = all[0].rate();
  mtpx::Json first{{"mode", "decode"},
                   {"draft", 0},
                   {"temperature", o.rules.sampling.temperature},
                   {"context", o.context},
                   {"device", device_name(device)},
                   {"dtype", dtype_name<T>()},
                   {"us_per_token", rounded(1e6 / plain, 1)},
                   {"tokens_per_s", rounded(plain, 1)},
                   {"us_one_row", rounded(1e6 * one, 1)},
                   {"mb_per_token", rounded(bytes / 1e6, 2)},
                   {"gbs", rounded(bytes * plain / 1e9, 2)},
                   {"read_gbs", rounded(roof / 1e9, 2)},
                   {"read_share", rounded(bytes * plain / roof, 3)}};
  name_device(first, device);
  std::cout << first.dump() << std::endl;
  if (!written()) return;
  for (std::size_t i = 1; i < ks.size(); ++i) {
    const mtpx::DecodeStatistics& s = all[i].statistics;
    std::vector<double> acceptance;
    for (std::size_t j = 0; j < s.accepted.size(); ++j) acceptance.push_back(rounded(s.acceptance(j), 3));
    mtpx::Json line{{"mode", "decode"},
                    {"draft", ks[i] < 0 ? mtpx::Json("auto") : mtpx::Json(ks[i])},
                    {"temperature", o.rules.sampling.temperature},
                    {"tokens_per_s", rounded(all[i].rate(), 1)},
                    {"speedup", rounded(all[i].rate() / plain, 3)},
                    {"acceptance", acceptance},
                    {"mean_length", rounded(s.mean_length(), 3)},
                    {"passes", s.passes},
                    {"drafts", s.drafts}};
    if (ks[i] > 0) {
      // (1 + accepted per pass) / (verify(K + 1 rows) / one row + K draft / one row). Each module
      // also reads what the last round accepted.
      const double verify = median(costs.rows[static_cast<std::size_t>(ks[i] + 1)]) / one;
      const Index distinct = std::min(ks[i], c.num_nextn_predict_layers);  // modules; the last one runs again
      double drafts = static_cast<double>(ks[i] - distinct) * median(costs.draft_again);
      for (std::size_t a = 0; a < s.histogram.size(); ++a) {
        drafts += static_cast<double>(distinct) * static_cast<double>(s.histogram[a]) /
                  static_cast<double>(s.drafts) *
                  median(costs.draft[std::min<std::size_t>(a + 1, most_drafts + 1)]);
      }
      const double draft = drafts / static_cast<double>(ks[i]) / one;
      const double cost = verify + static_cast<double>(ks[i]) * draft;
      line["verify_ratio"] = rounded(verify, 3);
      line["draft_ratio"] = rounded(draft, 3);
      line["model_speedup"] = rounded(s.mean_length() / cost, 3);
      line["share_of_model"] = rounded(all[i].rate() / plain / (s.mean_length() / cost), 3);
      line["break_even_length"] = rounded(cost, 3);
    }
    std::cout << line.dump() << std::endl;
    if (!written()) return;
  }
}

}  // namespace

void bench_decode(const DecodeBench& o) {
  with_numbers(o.device, [&](auto number, const auto& device) { run<decltype(number)>(o, device); });
}

}  // namespace program
