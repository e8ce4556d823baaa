// mtpx plan: what a pipeline would take of time and memory, before anything runs.

#include "model.hpp"
#include "operations.hpp"
#include "room.hpp"

#include <mtpx/train/layout_costs.hpp>
#include <mtpx/train/plan.hpp>

#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace program {
namespace {

struct PlanFlags {
  ConfigSource config;
  mtpx::Index ranks = 4;
  mtpx::Index micros = 16;
  mtpx::Index batch = 8;
  mtpx::Index seq = 256;
  mtpx::Index depth = -1;
  std::string heads;
  std::string layout;
  bool share_experts = false;
  double wire = 0;
  std::vector<std::string> times;
  bool activation_checkpointing = false;
  bool json = false;
  DeviceOptions device;
};

/// What letters of a layout cost, by --times or by counted operations.
mtpx::ModelCosts costs_of(const PlanFlags& o, const mtpx::Config& c) {
  mtpx::ModelCosts costs;
  const auto depths = c.num_nextn_predict_layers;
  if (o.times.empty()) {
    for (mtpx::Index layer = 0; layer < c.num_hidden_layers; ++layer)
      costs.layers.push_back(layer_operations(c, layer, o.batch, o.seq));
    for (mtpx::Index k = 1; k <= depths; ++k)
      costs.depths.push_back(layer_operations(c, c.num_hidden_layers + k - 1, o.batch, o.seq) +
                             head_operations(c, k, o.batch, o.seq));
    costs.head = head_operations(c, 0, o.batch, o.seq);
    return costs;
  }
  std::map<char, double> times;
  for (const std::string& one : o.times) {
    const auto refuse = [&](const char* why) {
      throw mtpx::ConfigError(mtpx::cat("[plan] --times ", one, ": ", why));
    };
    if (one.size() < 3 || one[1] != '=' || std::string("EtmL").find(one[0]) == std::string::npos)
      refuse("a letter of a layout and its time, as t=3.5");
    std::size_t end = 0;
    double time = -1;
    try {
      time = std::stod(one.substr(2), &end);
    } catch (const std::logic_error&) {
    }
    if (end != one.size() - 2 || !(time >= 0 && std::isfinite(time))) refuse("a time is 0 or positive");
    if (!times.emplace(one[0], time).second) refuse("is given twice");
  }
  for (const char letter : depths > 0 ? std::string("tmL") : std::string("tL")) {
    if (!times.contains(letter)) throw mtpx::ConfigError(mtpx::cat("[plan] --times names no ", letter));
  }
  costs.embedding = times['E'];
  costs.layers.assign(static_cast<std::size_t>(c.num_hidden_layers), times['t']);
  costs.depths.assign(static_cast<std::size_t>(depths), times['m']);
  costs.head = times['L'];
  return costs;
}

/// Milliseconds that each mixture waits for what copies send each other of a micro-batch where they share the
/// experts out, added to its layer: rows and results forward, and as many back (see experts_across()).
/// size: of a number
mtpx::ModelCosts with_exchange(const PlanFlags& o, const mtpx::Config& c, mtpx::ModelCosts costs,
                               mtpx::Index copies, std::size_t size) {
  if (!o.share_experts || o.wire == 0 || copies == 1) return costs;
  const auto add = [&](double& cost, mtpx::Index layer, mtpx::Index time) {
    if (!c.is_moe(layer)) return;
    const auto slots = static_cast<double>(o.batch * time * c.num_experts_per_tok);
    const double rows = std::ceil(mtpx::StepOptions{}.expert_room * slots / static_cast<double>(copies));
    const double bytes = 4 * static_cast<double>(copies - 1) * rows * static_cast<double>(c.hidden_size) *
                         static_cast<double>(size);
    cost += bytes / (o.wire * 1e6);
  };
  for (std::size_t i = 0; i < costs.layers.size(); ++i)
    add(costs.layers[i], static_cast<mtpx::Index>(i), o.seq);
  for (std::size_t k = 0; k < costs.depths.size(); ++k) {
    const auto depth = static_cast<mtpx::Index>(k);
    add(costs.depths[k], c.num_hidden_layers + depth, o.seq - depth - 1);
  }
  return costs;
}

/// A layout of some of the ranks, with as many copies of it as the others make.
struct PlannedLayout {
  mtpx::Layout layout;
  mtpx::Index copies = 1, micros = 0;  // micro-batches that each copy takes
  std::vector<double> costs;
  mtpx::SimulatedPipeline run;
  std::vector<mtpx::TrainingPlan> memory;  // of each stage

  std::size_t most_memory() const {
    std::size_t most = 0;
    for (const auto& stage : memory) most = std::max(most, stage.peak);
    return most;
  }
};

/// Follows one and plans its stages' memory.
template <typename T, typename D>
PlannedLayout plan_layout(const PlanFlags& o, const mtpx::Config& config, const mtpx::ModelCosts& costs,
                          const D& device, const mtpx::Layout& layout) {
  const mtpx::Index copies = o.ranks / layout.stages();
  PlannedLayout one{layout, copies,
                    0,      mtpx::stage_costs(layout, with_exchange(o, config, costs, copies, sizeof(T))),
                    {},     {}};
  one.micros = o.micros / one.copies;
  one.run = mtpx::simulate_costs(one.costs, one.micros);
  mtpx::TrainOptions options{.steps = 2, .accumulation = o.micros};
  options.step.loss = mtpx::published_weights(config.design());
  const mtpx::BatchSource nothing = [&](mtpx::Index) {
    mtpx::HostBatch batch;
    batch.batch = o.batch;
    batch.seq = o.seq;
    batch.tokens.assign(static_cast<std::size_t>(o.batch * (o.seq + 1)), 0);
    return batch;
  };
  for (mtpx::Index stage = 0; stage < layout.stages(); ++stage)
    one.memory.push_back(mtpx::plan_stage<T>(
        planned(device), config, options, nothing, layout, stage, static_cast<int>(one.copies),
        [&](auto& model) { model.activation_checkpointing = o.activation_checkpointing; }, o.share_experts));
  return one;
}

std::string percent(double share) { return fixed(100 * share, 1) + " %"; }

/// Columns as wide as their widest entry, two apart; the first to the left, the others to the right.
void print_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows[0].size(), 0);
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - row[i].size(), ' ');
      line += i == 0 ? row[i] + pad : "  " + pad + row[i];
    }
    std::cout << line << '\n';
  }
}

/// All layouts in short, the first one stage by stage.   timed: costs are milliseconds
void print_plan(const std::vector<PlannedLayout>& all, bool timed) {
  std::vector<std::vector<std::string>> rows{
      {"layout", "stages", "copies", "micro-batches", "balance", "efficiency", "memory of a rank"}};
  if (timed) rows[0].push_back("ms a step");
  for (const PlannedLayout& one : all) {
    rows.push_back({one.layout.text(), std::to_string(one.layout.stages()), std::to_string(one.copies),
                    std::to_string(one.micros), percent(mtpx::balance_of(one.costs)),
                    percent(one.run.efficiency()), size_text(one.most_memory())});
    if (timed) rows.back().push_back(fixed(one.run.time, 1));
  }
  print_table(rows);
  const PlannedLayout& first = all.front();
  std::cout << '\n' << first.layout.text() << ", stage by stage\n";
  rows = {{"stage", "work", "idle", "tapes", "weights", "gradients", "optimiser", "a step beside", "peak"}};
  double sum = 0;
  for (const double cost : first.costs) sum += cost;
  for (std::size_t s = 0; s < first.costs.size(); ++s) {
    const mtpx::TrainingPlan& m = first.memory[s];
    rows.push_back({std::to_string(s), percent(first.costs[s] / sum),
                    percent(1 - first.run.busy[s] / first.run.time), std::to_string(first.run.tapes[s]),
                    size_text(m.weights), size_text(m.gradients), size_text(m.moments + m.masters),
                    size_text(m.step), size_text(m.peak)});
  }
  print_table(rows);
}

mtpx::Json to_json(const PlannedLayout& one, bool timed) {
  mtpx::Json stages = mtpx::Json::array();
  for (std::size_t s = 0; s < one.costs.size(); ++s) {
    const mtpx::TrainingPlan& m = one.memory[s];
    stages.push_back({{"cost", one.costs[s]},
                      {"busy", one.run.busy[s] / one.run.time},
                      {"tapes", one.run.tapes[s]},
                      {"parameters", m.parameters},
                      {"weight_bytes", m.weights},
                      {"gradient_bytes", m.gradients},
                      {"optimizer_bytes", m.moments + m.masters},
                      {"step_bytes", m.step},
                      {"peak_bytes", m.peak}});
  }
  mtpx::Json line{{"layout", one.layout.text()},
                  {"stages", one.layout.stages()},
                  {"copies", one.copies},
                  {"micro_batches", one.micros},
                  {"balance", mtpx::balance_of(one.costs)},
                  {"efficiency", one.run.efficiency()},
                  {"stage", std::move(stages)}};
  if (timed) line["step_ms"] = one.run.time;
  return line;
}

/// The layouts to plan: --layout, or the best for each number of stages that divides the ranks.
std::vector<mtpx::Layout> layouts_of(const PlanFlags& o, const mtpx::Config& config,
                                     const mtpx::ModelCosts& costs) {
  std::vector<mtpx::Layout> all;
  if (!o.layout.empty()) {
    all.push_back(mtpx::Layout::parse(o.layout));
    all[0].check(config);
    if (o.ranks % all[0].stages() != 0 || o.micros % (o.ranks / all[0].stages()) != 0)
      throw mtpx::ConfigError(mtpx::cat("[plan] --ranks ", o.ranks, ", --micro-batches ", o.micros,
                                        ": copies of ", all[0].stages(),
                                        " stages must divide the ranks, and the micro-batches the copies"));
    return all;
  }
  const mtpx::MtpDesign design = config.design();
  const mtpx::Index own = !design.chains && config.num_nextn_predict_layers > 0 ? design.own_layers : 0;
  for (mtpx::Index stages = o.ranks; stages >= 1; --stages) {
    if (o.ranks % stages != 0 || o.micros % (o.ranks / stages) != 0) continue;
    if (stages > 1 && config.tie_word_embeddings) continue;
    if (const auto best = mtpx::best_layout(costs, stages, own)) all.push_back(*best);
  }
  if (all.empty())
    throw mtpx::ConfigError(mtpx::cat("[plan] --ranks ", o.ranks, ", --micro-batches ", o.micros,
                                      ": no number of stages gives each rank a part of the model and an "
                                      "equal number of micro-batches"));
  return all;
}

void run_plan(const PlanFlags& o) {
  mtpx::Config config = o.config.read().config;
  set_depths(config, o.depth, o.heads);
  config.validate();
  const mtpx::ModelCosts costs = costs_of(o, config);
  const std::vector<mtpx::Layout> layouts = layouts_of(o, config, costs);
  std::vector<PlannedLayout> all;
  with_numbers(o.device, [&](auto number, const auto& device) {
    for (const mtpx::Layout& layout : layouts)
      all.push_back(plan_layout<decltype(number)>(o, config, costs, device, layout));
  });
  std::stable_sort(all.begin(), all.end(), [](const PlannedLayout& a, const PlannedLayout& b) {
    return a.layout.stages() > b.layout.stages();
  });
  if (o.json) {
    mtpx::Json lines = mtpx::Json::array();
    for (const PlannedLayout& one : all) lines.push_back(to_json(one, !o.times.empty()));
    std::cout << mtpx::Json{{"ranks", o.ranks},
                            {"micro_batches", o.micros},
                            {"batch", o.batch},
                            {"seq", o.seq},
                            {"costs", o.times.empty() ? "operations" : "times"},
                            {"dtype", o.device.dtype},
                            {"layouts", std::move(lines)}}
                     .dump()
              << std::endl;
    return;
  }
  std::cout << o.ranks << " ranks, " << o.micros << " micro-batches of " << o.batch << " x " << o.seq
            << " tokens, " << o.device.dtype
            << "; costs: " << (o.times.empty() ? "counted operations" : "--times") << '\n';
  print_plan(all, !o.times.empty());
}

}  // namespace

void add_plan(CLI::App& app) {
  auto options = std::make_shared<PlanFlags>();
  PlanFlags& o = *options;
  CLI::App* command = app.add_subcommand(
      "plan", "Tell what pipelines of some ranks take of time and memory, before anything runs");
  o.config.add(*command);
  command->add_option("--ranks", o.ranks, "Processes, each with a device")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->add_option("--micro-batches", o.micros, "Micro-batches per step, of all ranks")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->add_option("--batch", o.batch, "Windows per micro-batch")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--seq", o.seq, "Tokens per window, T")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  add_depths(*command, o.depth, o.heads);
  command->add_option("--layout", o.layout,
                      "Plan this one, as Etttt|tttt|tttt|mL: E the embedding, t a layer, m a depth, L the "
                      "output head, | the next stage; t*4 and (tt|)*2 repeat. Default: the most even ones");
  command->add_flag("--share-experts", o.share_experts,
                    "Copies have a part of the experts of every mixture each: less memory, and with --wire "
                    "the time of their exchange");
  command
      ->add_option("--wire", o.wire,
                   "GB/s that a rank sends to the others: with --share-experts and --times in ms, what "
                   "mixtures wait for tokens is added to their layers")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--times", o.times,
                   "Measured times of the letters in ms, as t=3.5,m=12,L=6, instead of counted operations")
      ->delimiter(',');
  command->add_flag("--checkpoint-activations", o.activation_checkpointing,
                    "Less memory, one more forward, whose time is not in the costs");
  command->add_flag("--json", o.json, "One line of JSON instead of tables");
  command->get_option("--wire")->needs("--share-experts")->needs("--times");
  o.device.add(*command);
  command->callback([options] { run_plan(*options); });
}

}  // namespace program
