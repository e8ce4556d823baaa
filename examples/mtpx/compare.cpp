// mtpx compare: designs of multi-token prediction side by side: same trunk, same text, same batches.

#include "drafting.hpp"
#include "report.hpp"
#include "text.hpp"

#include <mtpx/io/event_file.hpp>
#include <mtpx/io/file.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <filesystem>
#include <iostream>
#include <map>

namespace program {
namespace {

using mtpx::Index;
using mtpx::Json;

struct CompareFlags {
  std::vector<std::string> data;
  std::string out;
  ConfigSource config;
  Index depth = 2;
  std::vector<std::string> designs{"baseline", "sequential", "decay", "repeated",
                                   "detached", "parallel",   "linear"};
  std::vector<std::string> equal_size{"sequential", "parallel"};
  Index seeds = 3;
  Index steps = 400;
  Index batch = 4;
  Index seq = 256;
  double lr = 3e-3;
  double validation = 0.1;
  Index eval_windows = 64;
  Index evaluations = 8;
  Index prompts = 6;
  Index context = 64;
  Index tokens = 128;
  double temperature = 0.8;
  bool redraw = false;
  bool force = false;
  DeviceOptions device;
};

/// What is trained: a configuration and how its losses are weighted.
struct Design {
  std::string name;
  std::string what;
  mtpx::Config config;
  mtpx::MtpLossOptions loss;
  bool detached = false;
};

Design make_design(const std::string& name, mtpx::Config config, Index depth) {
  mtpx::MtpHeads heads = mtpx::MtpHeads::sequential;
  std::string what = "the main model alone";
  if (name == "sequential") what = "a module per depth, 0.3 times the mean loss";
  if (name == "decay") what = "sequential, depth k weighted 2^-(k-1), same sum";
  if (name == "repeated") what = "one module for all depths, depth k weighted 0.6^(k-1), same sum";
  if (name == "detached") what = "sequential, depths train themselves alone";
  if (name == "parallel") what = "a layer per depth on the trunk, plain sum of losses";
  if (name == "linear") what = "a matrix per depth on the trunk, plain sum of losses";
  for (const auto& [known, its] : mtpx::detail::mtpx_heads_names()) {
    if (name == known) heads = its;
  }
  config.set_depths(name == "baseline" ? 0 : depth, heads);
  Design design{name, what, config, mtpx::published_weights(config.design()), name == "detached"};
  if (name == "decay") {
    design.loss.depth_weights = mtpx::exponential_weights(depth, 0.5);
    double sum = 0;
    for (const double w : design.loss.depth_weights) sum += w;
    for (double& w : design.loss.depth_weights) w *= static_cast<double>(depth) / sum;
  }
  return design;
}

/// The design with as many layers as bring its size closest to `parameters`.
Design resized(Design design, Index parameters) {
  const Index most = design.config.num_hidden_layers;
  Index best = most, distance = std::numeric_limits<Index>::max();
  for (Index layers = 1; layers <= most; ++layers) {
    design.config.num_hidden_layers = layers;
    const Index off = std::abs(design.config.parameter_count() - parameters);
    if (off < distance) best = layers, distance = off;
  }
  design.config.num_hidden_layers = best;
  return design;
}

/// The same for every run: text and prompts.
struct Texts {
  mtpx::Tokens train;
  mtpx::ValidationWindows windows;
  std::vector<std::vector<std::int32_t>> prompts;
  std::vector<std::vector<std::int32_t>> held_out;  // the windows that these begin
};

/// Decoding after every prompt, plain and with D drafts in turn.
template <typename T, typename D>
Json decode(const mtpx::Transformer<T, D>& model, const Texts& text, const CompareFlags& o,
            double temperature) {
  const Index depth = model.config.num_nextn_predict_layers;
  const Index positions = o.context + o.tokens + depth + 1;
  double time[2] = {0, 0}, emitted[2] = {0, 0}, reading = 0;
  Repetition repetition;
  Json line;
  std::deque<mtpx::Speculator<T, D>> decoders;  // they do not move
  for (const Index k : {Index{0}, depth}) {
    mtpx::GenerateOptions options;
    options.draft = k;
    options.sampling.temperature = temperature;
    decoders.emplace_back(model, options, 1, positions);
  }
  for (const auto& prompt : text.prompts) {
    for (std::size_t i = 0; i < (depth > 0 ? 2 : 1); ++i) {
      auto& decoder = decoders[i];
      const auto begin = Clock::now();
      const Index slot = decoder.add(prompt, static_cast<std::uint64_t>(&prompt - text.prompts.data()));
      if (i == 0) reading += seconds_since(begin);
      decoder.step();
      const auto known = static_cast<Index>(decoder.tokens(slot).size());
      const auto start = Clock::now();
      while (static_cast<Index>(decoder.tokens(slot).size()) < o.context + o.tokens) decoder.step();
      time[i] += seconds_since(start);
      emitted[i] += static_cast<double>(static_cast<Index>(decoder.tokens(slot).size()) - known);
      if (i == 0) repetition.add(decoder.tokens(slot), o.context);
      decoder.remove(slot);
    }
  }
  line["plain_tokens_per_s"] = emitted[0] / time[0];
  line["prompt_tokens_per_s"] = static_cast<double>(decoders[0].statistics().prompt_tokens) / reading;
  line["repeated_8grams"] = repetition.share();
  if (depth == 0) return line;
  const mtpx::DecodeStatistics& s = decoders[1].statistics();
  line["drafted_tokens_per_s"] = emitted[1] / time[1];
  line["speedup"] = emitted[1] / time[1] / (emitted[0] / time[0]);
  line["mean_length"] = s.mean_length();
  std::vector<double> acceptance;
  for (std::size_t i = 0; i < static_cast<std::size_t>(depth); ++i) acceptance.push_back(s.acceptance(i));
  line["acceptance"] = acceptance;
  add_draft_counts(line, s);
  if (temperature > 0) line["sum_min_p_q"] = agreement(model, text.held_out, temperature).overlap;
  return line;
}

/// Trains one model and measures it.
template <typename T, typename D>
Json run(const D& device, const Design& design, std::uint64_t seed, const Texts& text,
         const CompareFlags& o) {
  mtpx::Transformer<T, D> model(device, design.config);
  mtpx::initialize(model, seed);
  model.detach_depths = design.detached;
  mtpx::TrainOptions train;
  train.steps = o.steps;
  train.lr.peak = o.lr;
  train.lr.warmup = std::min<Index>(100, o.steps / 10);
  train.step.loss = design.loss;
  train.lambda.late = design.loss.lambda;
  // Windows do not depend on the design: all of them take those of the full depth.
  mtpx::Trainer<T, D> trainer(model, train, mtpx::Batches(text.train, {o.batch, o.seq, seed, o.depth}));
  Json line{{"seed", seed}, {"curve", Json::array()}};
  double training = 0;
  auto start = Clock::now();
  for (Index step = 1; step <= o.steps; ++step) {
    trainer.advance();
    if (step * o.evaluations % o.steps >= o.evaluations && step != o.steps) continue;
    trainer.reports();
    training += seconds_since(start);
    const mtpx::Evaluation e = mtpx::evaluate(model, text.windows);
    line["curve"].push_back(
        {{"step", step}, {"loss", e.loss}, {"accuracy", e.accuracy}, {"agreement", e.agreement}});
    start = Clock::now();
  }
  line["train_tokens_per_s"] = static_cast<double>(o.steps * o.batch * o.seq) / training;
  line["peak_mib"] = static_cast<double>(device.peak_bytes()) / (1 << 20);
  line["greedy"] = decode(model, text, o, 0);
  line["sampled"] = decode(model, text, o, o.temperature);
  line["at_1"] = decode(model, text, o, 1);
  return line;
}

/// What drafts gave in a run: speed and acceptance, greedy and sampled; r: much of that text repeats.
std::string drafts_of(const Json& run) {
  std::string text;
  for (const char* mode : {"greedy", "sampled", "at_1"}) {
    const Json& m = run[mode];
    if (!m.contains("speedup")) continue;
    text += mtpx::cat(text.empty() ? "; drafts: " : ", ", mode, ' ', fixed(m["speedup"].get<double>(), 2),
                      " x (");
    for (std::size_t i = 0; i < m["acceptance"].size(); ++i)
      text += mtpx::cat(i == 0 ? "" : ", ", fixed(100 * m["acceptance"][i].get<double>(), 0));
    text += mtpx::cat(" %)", m["repeated_8grams"].get<double>() > repeats_above ? " r" : "");
  }
  return text;
}

void write(const std::filesystem::path& path, const std::string& text) {
  write_output([&] {
    mtpx::OutputFile file("compare", path);
    file.write(text);
    file.commit();
  });
}

constexpr std::size_t most_values = 100000;  // in report.json and runs.json

Json read(const std::filesystem::path& path) {
  const mtpx::InputFile file("compare", path);
  return mtpx::parse_json("compare", file.read_text(Index{1} << 26), file.path(), most_values);
}

/// The report's files, from the figures of its tables. All are drawn before the first is written.
void draw(const std::filesystem::path& out, Json report) {
  const std::string place = mtpx::cat("[compare] ", (out / "report.json").string());
  const Json found = claims(Checked(report, place)["tables"][0]);
  report["claims"] = found;
  const Checked checked(report, place);
  const std::string page = report_html(checked), text = report_text(checked);
  write(out / "report.json", report.dump(1) + '\n');
  for (const auto& [name, svg] : report_figures(checked)) write(out / (name + ".svg"), svg);
  write(out / "report.html", page);
  std::cout << '\n' << text << "\nreport: " << (out / "report.html").string() << std::endl;
  written();
}

/// The runs that are finished, in runs.json: a comparison that was ended goes on behind them.
class FinishedRuns {
 public:
  /// like: the report as it begins, whose settings those of the file must equal; force: else they are dropped
  FinishedRuns(const std::filesystem::path& out, const Json& like, bool force) : path_(out / "runs.json") {
    if (!std::filesystem::exists(path_)) return;
    const Json all = read(path_);
    const Checked file(all, mtpx::cat("[compare] ", path_.string()));
    for (const auto& [key, value] : like.items()) {
      if (file.has(key) && file[key].dump() == value.dump()) continue;
      if (force) return;
      throw mtpx::ConfigError(mtpx::cat("[compare] ", path_.string(),
                                        ": holds runs that were made with other settings (its ", key,
                                        " differs); --force drops them"));
    }
    for (const Checked& one : file["runs"].entries()) runs_[one["name"].text()] = one["run"].object();
  }

  const Json* find(const std::string& name) const {
    const auto found = runs_.find(name);
    return found == runs_.end() ? nullptr : &found->second;
  }
  void add(const std::string& name, const Json& run, Json like) {
    runs_[name] = run;
    for (const auto& [of, one] : runs_) like["runs"].push_back({{"name", of}, {"run", one}});
    write(path_, like.dump() + '\n');
  }
  /// Now the report has them.
  void remove() const { std::filesystem::remove(path_); }

 private:
  std::filesystem::path path_;
  std::map<std::string, Json> runs_;
};

template <typename T, typename D>
void compare(const CompareFlags& o, const D& device) {
  mtpx::Config config = o.config.read().config;
  config.set_depths(o.depth, config.mtpx_heads);
  config.validate();
  if (o.context + o.tokens + o.depth + 1 > config.max_position_embeddings || o.context > o.seq) {
    throw mtpx::ConfigError(mtpx::cat("[compare] --context ", o.context, " and --tokens ", o.tokens,
                                      ": --seq = ", o.seq,
                                      ", max_position_embeddings = ", config.max_position_embeddings));
  }
  const std::filesystem::path out(o.out);
  std::error_code absent;
  if (std::filesystem::exists(out / "report.json", absent) && !o.force)
    throw mtpx::ConfigError(
        mtpx::cat("[compare] --out ", o.out, ": a report is there already; --force replaces it"));
  make_out("compare", o.out);

  const mtpx::Corpus corpus = read_corpus(o.data);
  const Index needed = mtpx::Batches::minimum(o.seq, o.depth);
  const mtpx::Tokenizer tokenizer = new_tokenizer("", config, TextData(o.data), o.validation);
  const auto [train, held_out] = tokens_of(corpus, tokenizer).split(o.validation, needed);
  Texts text{train, mtpx::ValidationWindows(held_out, {o.batch, o.seq, o.eval_windows, o.depth}), {}, {}};
  if (text.windows.windows() == 0) throw mtpx::ConfigError("[compare] no text is left over for validation");
  for (Index i = 0; static_cast<Index>(text.prompts.size()) < o.prompts && i < text.windows.size(); ++i) {
    const auto host = text.windows.at(i);
    text.prompts.emplace_back(host.tokens.begin(), host.tokens.begin() + o.context);
    text.held_out.emplace_back(host.tokens.begin(), host.tokens.begin() + o.seq);
  }

  std::vector<std::pair<std::string, std::vector<Design>>> tables;
  auto& first = tables.emplace_back("equal trunk", std::vector<Design>()).second;
  for (const std::string& name : o.designs) first.push_back(make_design(name, config, o.depth));
  if (!o.equal_size.empty()) {
    const Index size = make_design("baseline", config, o.depth).config.parameter_count();
    auto& second = tables.emplace_back("equal parameters", std::vector<Design>()).second;
    for (const std::string& name : o.equal_size)
      second.push_back(resized(make_design(name, config, o.depth), size));
  }
  Index runs = 0, done = 0;
  for (const auto& [name, designs] : tables) runs += static_cast<Index>(designs.size()) * o.seeds;

  std::uint32_t text_crc = 0;
  for (Index d = 0; d < corpus.documents(); ++d)
    text_crc = mtpx::crc32c(std::as_bytes(std::span(corpus.text(d))), text_crc);
  Json report{{"mtpx", mtpx::cat(MTPX_VERSION_MAJOR, '.', MTPX_VERSION_MINOR, '.', MTPX_VERSION_PATCH)},
              {"config", mtpx::parse_json("compare", mtpx::config_json(config, Json::object()), "config")},
              {"settings",
               {{"depth", o.depth},
                {"steps", o.steps},
                {"batch", o.batch},
                {"seq", o.seq},
                {"lr", o.lr},
                {"seeds", o.seeds},
                {"device", device_name(device)},
                {"dtype", o.device.dtype},
                {"text_bytes", corpus.size()},
                {"text_crc32c", text_crc},
                {"validation", o.validation},
                {"validation_windows", text.windows.windows()},
                {"evaluations", o.evaluations},
                {"prompts", text.prompts.size()},
                {"context", o.context},
                {"tokens", o.tokens},
                {"temperature", o.temperature},
                {"past_trained_window", o.context + o.tokens > o.seq}}}};
  name_device(report["settings"], device);
  const Json like = report;
  FinishedRuns finished(out, like, o.force);
  const auto begin = Clock::now();
  for (const auto& [title, designs] : tables) {
    Json table{{"name", title}, {"designs", Json::array()}};
    for (const Design& d : designs) {
      Json line{{"name", d.name},
                {"what", d.what},
                {"depth", d.config.num_nextn_predict_layers},
                {"num_hidden_layers", d.config.num_hidden_layers},
                {"parameters", d.config.parameter_count()},
                {"runs", Json::array()}};
      for (Index seed = 1; seed <= o.seeds; ++seed) {
        const std::string name = mtpx::cat(title, ", ", d.name, ", seed ", seed);
        if (const Json* earlier = finished.find(name)) {
          line["runs"].push_back(*earlier);
          --runs;
          std::cout << name << ": finished earlier" << std::endl;
          continue;
        }
        line["runs"].push_back(run<T>(again(device), d, static_cast<std::uint64_t>(seed), text, o));
        ++done;
        const double elapsed = seconds_since(begin);
        const Json& last = line["runs"].back();
        finished.add(name, last, like);
        std::cout << "run " << done << '/' << runs << "  " << name << ": main head "
                  << fixed(last["curve"].back()["loss"][0].get<double>(), 4) << " nats" << drafts_of(last)
                  << "; ETA "
                  << static_cast<long>(elapsed / static_cast<double>(done) * static_cast<double>(runs - done))
                  << " s" << std::endl;
        if (!written()) return;
      }
      table["designs"].push_back(line);
    }
    report["tables"].push_back(table);
  }
  summarise(report, mtpx::cat("[compare] ", (out / "runs.json").string()));
  report["settings"]["seconds"] = seconds_since(begin);
  draw(out, std::move(report));
  finished.remove();
}

}  // namespace

void add_compare(CLI::App& app) {
  auto options = std::make_shared<CompareFlags>();
  CompareFlags& o = *options;
  CLI::App* command = app.add_subcommand(
      "compare",
      "Train designs of multi-token prediction side by side and write report.html and report.json");
  const auto known = CLI::IsMember(o.designs);
  const auto count = [&](const char* name, Index& into, const char* help) {
    command->add_option(name, into, help)->check(CLI::Range(1, 1 << 24))->capture_default_str();
  };
  command->add_option("--data", o.data, "Files or folders of text; default: this repository's own");
  command->add_option("--out", o.out, "Folder for the report")->required();
  o.config.add(*command);
  command->add_option("--depth", o.depth, "Depth D of every design but the baseline")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--designs", o.designs, "What to compare, separated by commas")
      ->delimiter(',')
      ->check(known)
      ->capture_default_str();
  command
      ->add_option(
          "--equal-size", o.equal_size,
          "Compared again with fewer layers, so that they are as large as the baseline; `none`: nothing")
      ->delimiter(',')
      ->check(known | CLI::IsMember({"none"}))
      ->capture_default_str();
  count("--seeds", o.seeds, "Runs of each design");
  count("--steps", o.steps, "Optimiser steps of a run: the budget");
  count("--batch", o.batch, "Windows per step");
  count("--seq", o.seq, "Tokens per window, T");
  command->add_option("--lr", o.lr, "Peak learning rate")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--validation", o.validation, "Share of the text held out")
      ->check(CLI::Range(0.001, 0.9))
      ->capture_default_str();
  count("--eval-windows", o.eval_windows, "Most validation windows");
  count("--evaluations", o.evaluations, "Validations during a run");
  count("--prompts", o.prompts, "Prompts decoded after training");
  count("--context", o.context, "Tokens of a prompt");
  count("--tokens", o.tokens, "Tokens decoded after each prompt");
  command->add_option("--temperature", o.temperature, "Of sampled decoding; greedy is measured, too")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--redraw", o.redraw, "Train nothing; draw the report again from report.json in --out");
  command->add_flag("--force", o.force, "Replace the report in --out, and runs of other settings");
  o.device.add(*command);
  command->callback([options] {
    const std::filesystem::path out(options->out);
    if (options->redraw) return draw(out, read(out / "report.json"));
    std::erase(options->equal_size, "none");
    with_numbers(options->device,
                 [&](auto number, const auto& device) { compare<decltype(number)>(*options, device); });
  });
}

}  // namespace program
