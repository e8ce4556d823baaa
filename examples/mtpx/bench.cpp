// mtpx bench: the time of a training step, as one JSON line. With --decode: of a token (bench_decode.cpp).

#include "bench.hpp"
#include "operations.hpp"
#include "ranks.hpp"
#include "roofs.hpp"

#include <mtpx/comm/grid.hpp>
#include <mtpx/train/layout.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>

namespace program {
namespace {

struct BenchFlags {
  ConfigSource config;
  mtpx::Index batch = 8;
  mtpx::Index seq = 256;
  mtpx::Index depth = -1;
  std::string heads;
  mtpx::Index steps = 10;
  mtpx::Index accumulation = 1;
  std::string layout;
  bool share_experts = false;
  DeviceOptions device;
  bool decode = false;
  DecodeBench decoding{};
};

const Clock::time_point program_start = Clock::now();

/// Four batches of random tokens.
template <typename D>
std::vector<mtpx::Tensor<std::int32_t, D>> random_batches(const D& device, const BenchFlags& o,
                                                          mtpx::Index vocabulary) {
  std::vector<mtpx::Tensor<std::int32_t, D>> batches;
  for (std::uint64_t i = 0; i < 4; ++i) {
    std::vector<std::int32_t> ids;
    for (mtpx::Index j = 0; j < o.batch * (o.seq + 1); ++j) {
      ids.push_back(static_cast<std::int32_t>(mtpx::Philox::block(i, 0, static_cast<std::uint64_t>(j))[0] %
                                              static_cast<std::uint32_t>(vocabulary)));
    }
    batches.push_back(mtpx::Tensor<std::int32_t, D>::from(device, {o.batch, o.seq + 1}, ids));
  }
  return batches;
}

/// What only one kind of device has to tell; work: operations a second that the step reached.
template <typename T>
void add_figures(mtpx::Json& line, const mtpx::Cpu& cpu, double work) {
  const double peak = fma_peak(cpu, 5);
  line["fma_peak_gflops"] = rounded(peak / 1e9, 1);
  line["fma_share"] = rounded(work / peak, 3);
}
#ifdef MTPX_CUDA
template <typename T>
void add_figures(mtpx::Json& line, const mtpx::Cuda& gpu, double work) {
  line["reserved_gib"] = rounded(static_cast<double>(gpu.reserved_bytes()) / (1 << 30), 4);
  const double peak = matrix_peak<T>(again(gpu));
  if (peak == 0) return;  // the step leaves no memory for it
  line["matrix_peak_gflops"] = rounded(peak / 1e9, 1);
  line["matrix_share"] = rounded(work / peak, 3);
}
#endif

/// The stages of --layout, or the whole model as one.
mtpx::Layout layout_of(const BenchFlags& o, const mtpx::Config& config) {
  mtpx::Layout layout =
      o.layout.empty() ? mtpx::Layout::of_counts({config.num_hidden_layers}, config.num_nextn_predict_layers)
                       : mtpx::Layout::parse(o.layout);
  layout.check(config);
  return layout;
}

template <typename T, typename D>
void run(const BenchFlags& o, const D& device, const mtpx::World& world) {
  mtpx::Config config = o.config.read().config;
  set_depths(config, o.depth, o.heads);
  const mtpx::Layout layout = layout_of(o, config);
  const mtpx::Grid<D> grid(group_of(world, device), static_cast<int>(layout.stages()));
  const mtpx::Index copies = grid.data.size();
  if (o.accumulation % copies != 0)
    throw mtpx::ConfigError(mtpx::cat("[bench] --accumulation ", o.accumulation,
                                      ": must be a multiple of the ", copies,
                                      " ranks that share a step's micro-batches"));
  mtpx::ModelSlice slice = layout.slice(grid.stages.rank());
  if (o.share_experts) slice = slice.with_experts(grid.data.rank(), grid.data.size());
  mtpx::Transformer<T, D> model(device, config, config.design(), slice);
  mtpx::initialize(model, 0);
  const auto batches = random_batches(device, o, config.vocab_size);
  const mtpx::StepOptions options{.loss = mtpx::published_weights(config.design())};
  std::vector<mtpx::Batch<D>> inputs;
  for (mtpx::Index micro = 0; micro < o.accumulation / copies; ++micro)
    inputs.push_back({mtpx::Tensor<std::int32_t, D>(device, batches[0].shape()), {}, false});
  mtpx::TrainStep<T, D> train(model, std::move(inputs), options, grid.data, grid.stages);
  const auto step = [&](mtpx::Index i) {
    mtpx::Index number = i + grid.data.rank();
    for (const auto& input : train.inputs()) {
      const auto& from = batches[static_cast<std::size_t>(number % 4)];
      copy_on_device(device, input.tokens.data(), from.data(), from.bytes());
      number += copies;
    }
    train(1e-4);
    wait_for(device);
  };
  const auto main_loss = [&] { return static_cast<double>(train.losses().to_host()[1]); };
  constexpr bool host = mtpx::HostMemory<D>;
  const auto begin = Clock::now();
  step(0);
  const double first_seconds = seconds_since(begin), start_seconds = seconds_since(program_start);
  const double first = main_loss();
  const auto warm_up = [&] {
    if (host) return;
    step(0);  // a GPU's first two steps make the record, and show what memory a step needs; replays ask for
    step(0);  // none
  };
  warm_up();
  while (train.make_room()) {  // for experts that are shared out: without it steps change nothing
    train.rewind(0);
    step(0);
    warm_up();
  }
  for (mtpx::Index i = 0; i < 2; ++i) step(i);
  if (host) device.reset_peak();
  std::vector<double> times;
  for (mtpx::Index i = 0; i < o.steps; ++i) {
    const auto start = Clock::now();
    step(i);
    times.push_back(seconds_since(start));
  }
  const double last = main_loss();
  std::sort(times.begin(), times.end());
  const std::size_t middle = times.size() / 2;
  const double median = times.size() % 2 == 1 ? times[middle] : (times[middle - 1] + times[middle]) / 2;
  if (world.rank() != 0) return world.host().barrier();
  const double work = static_cast<double>(o.accumulation) * operations(config, o.batch, o.seq);
  mtpx::Json line{
      {"peer", mtpx::cat("mtpx ", MTPX_VERSION_MAJOR, '.', MTPX_VERSION_MINOR, '.', MTPX_VERSION_PATCH)},
      {"compile", true},
      {"attention", "default"},
      {"device", device_name(device)},
      {"dtype", dtype_name<T>()},
      {"depth", config.num_nextn_predict_layers},
      {"params", config.parameter_count()},
      {"batch", o.batch},
      {"seq", o.seq},
      {"step_ms", rounded(median * 1e3, 2)},
      {"min_ms", rounded(times.front() * 1e3, 2)},
      {"tokens_per_s", std::round(static_cast<double>(o.accumulation * o.batch * o.seq) / median)},
      {"first_loss", rounded(first, 4)},
      {"last_loss", rounded(last, 4)},
      {"peak_gib", rounded(static_cast<double>(device.peak_bytes()) / (1 << 30), 4)},
      {"first_step_s", rounded(first_seconds, 2)},
      {"start_s", rounded(start_seconds, 2)},  // of the program, until its first step is done
      {"gflop_per_step", rounded(work / 1e9, 2)},
      {"gflops", rounded(work / median / 1e9, 1)}};
  name_device(line, device);
  if (o.accumulation > 1) line["accumulation"] = o.accumulation;
  if (world.size() > 1) {  // memory and shares of the peak are rank 0's; work is all ranks'
    line["ranks"] = world.size();
    line["layout"] = layout.text();
    line["share_experts"] = o.share_experts;
  }
  add_figures<T>(line, device, work / median / world.size());
  std::cout << line.dump() << std::endl;
  written();
  world.host().barrier();  // who leaves first would look lost
}

}  // namespace

void add_bench(CLI::App& app) {
  auto options = std::make_shared<BenchFlags>();
  BenchFlags& o = *options;
  CLI::App* command =
      app.add_subcommand("bench", "Time training steps on random tokens, or decoding; prints JSON lines");
  o.config.add(*command);
  command->add_option("--batch", o.batch, "Windows per step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--seq", o.seq, "Tokens per window, T")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--steps", o.steps, "Steps to time, after some to warm up")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  add_depths(*command, o.depth, o.heads);
  command->add_option("--accumulation", o.accumulation, "Micro-batches per step, of all ranks together")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--layout", o.layout,
                      "Stages of a pipeline, whose copies are the ranks that `mtpx launch` started; see "
                      "`mtpx plan`. Default: each rank has the whole model");
  command->add_flag("--share-experts", o.share_experts,
                    "Copies have a part of the experts of every mixture each, as mtpx train");
  auto* decode =
      command->add_flag("--decode", o.decode,
                        "Time decoding instead: plain, 1 to 4 drafts and auto, in turn, with the cost model");
  DecodeBench& d = o.decoding;
  d.model.decodes = true;
  auto* model = d.model.add(*command, "--model", "Model folder to decode with; default: random weights");
  model->needs(decode)->excludes(command->get_option("--config"))->excludes(command->get_option("--preset"));
  d.model.add_mtp(*command, model);
  command
      ->add_option("--data", d.data,
                   "Files or folders of text for the prompts; default: this repository's own")
      ->needs(decode);
  command->add_option("--context", d.context, "Tokens of a prompt")
      ->check(CLI::Range(1, 1 << 24))
      ->needs(decode)
      ->capture_default_str();
  command->add_option("--tokens", d.tokens, "Tokens to decode after each prompt")
      ->check(CLI::Range(2, 1 << 24))
      ->needs(decode)
      ->capture_default_str();
  command
      ->add_option(
          "--prompts", d.prompts,
          "How many prompts, evenly spaced over the text that is held out; or a file with a prompt a "
          "line, of any length")
      ->needs(decode)
      ->capture_default_str();
  command
      ->add_option(
          "--validation", d.validation,
          "Share of --data that training held out, as mtpx train's: prompts are from there; 1 = all of it")
      ->check(CLI::Range(0.001, 1.0))
      ->needs(decode)
      ->capture_default_str();
  command
      ->add_option("--drafts", d.most_drafts, "Numbers of drafts to measure: 1 to this; 0: none, only auto")
      ->needs(decode)
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  command
      ->add_option(
          "--sequences", d.sequences,
          "Decode so many sequences side by side instead, without drafts; several numbers, separated by "
          "commas. Prompts are random: first all of --context tokens, which times reading them, then of "
          "half as many to all")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 16))
      ->needs(decode);
  command->add_flag("--table", d.table, "Lines for people instead of JSON")->needs(decode);
  command->add_option("--temperature", d.temperatures, "0 = greedy; several, separated by commas")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber)
      ->needs(decode)
      ->capture_default_str();
  d.draft_vocabulary.add(*command, "so many of the most frequent of --data")->needs(decode);
  for (CLI::Option* option : add_verification(*command, d.rules)) option->needs(decode);
  o.device.add(*command);
  command->callback([options] {
    options->decoding.config = options->config;
    options->decoding.device = options->device;
    if (!options->decoding.sequences.empty()) return bench_sequences(options->decoding);
    if (options->decode) return bench_decode(options->decoding);
    const mtpx::World world = join_world();
    DeviceOptions device_options = options->device;
    take_share(device_options, world);
    with_numbers(device_options,
                 [&](auto number, const auto& device) { run<decltype(number)>(*options, device, world); });
  });
}

}  // namespace program
