#pragma once

#include <mtpx/core/callback.hpp>
#include <mtpx/train/batches.hpp>
#include <mtpx/train/schedule.hpp>
#include <mtpx/train/step.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mtpx {

/// A run: how many steps, what changes from one to the next, and what each does. How large its batches are,
/// and with which seed they are shuffled, is said where they are made: BatchOptions.
struct TrainOptions {
  Index steps = 300;       ///< optimiser steps of the whole run, for the schedules
  Index accumulation = 1;  ///< micro-batches per optimiser step, of all ranks together
  LearningRate lr{};       ///< of each step
  /// The learning rate of a step (from 0) of so many steps, instead of `lr`.
  std::function<double(Index step, Index steps)> schedule{};
  LambdaSchedule lambda{};      ///< from step.loss.lambda on; late = step.loss.lambda: constant
  StepOptions step{};           ///< loss, AdamW, clipping, router biases
  bool mask_documents = false;  ///< attention stays inside documents (DeepSeek-V3 sec. 4.1 does not)
};

/// What one optimiser step showed.
struct StepReport {
  Index step = 0;            ///< from 1
  std::vector<double> loss;  ///< [depth], nats a token, mean over the micro-batches
  double total = 0;          ///< what was minimised
  double lr = 0;             ///< learning rate that it took
  double lambda = 0;         ///< weight of the depths that it took
  double gradient_norm = 0;  ///< before clipping
};

/// What a pass over validation windows showed. Index 0 is the main head.
struct Evaluation {
  std::vector<double> loss;      ///< nats a token, over all rows of the depth
  std::vector<double> accuracy;  ///< share of rows whose argmax is the label: acceptance, teacher-forced
  std::vector<double>
      agreement;            ///< share of rows whose argmax is the main head's own choice for that position
  std::vector<Index> rows;  ///< labels that counted
  Index bytes = 0;          ///< of the text that the main head's labels stand for

  /// Whether no label counted: there was nothing to score.
  bool empty() const { return rows.empty() || rows[0] == 0; }
  /// Bits per byte of the main head: what models of different vocabularies can be compared by.
  double bits_per_byte() const {
    return bytes == 0 ? 0.0
                      : loss[0] * static_cast<double>(rows[0]) / (static_cast<double>(bytes) * std::log(2.0));
  }
};

/// A batch of the host on a device.
template <typename D>
Batch<D> upload(const D& device, const HostBatch& host, bool mask_documents = false) {
  const auto numbers = [&](const std::vector<std::int32_t>& all) {
    return all.empty() ? Tensor<std::int32_t, D>()
                       : Tensor<std::int32_t, D>::from(device, {host.batch, host.seq + 1}, all);
  };
  return {numbers(host.tokens), numbers(host.positions), mask_documents, numbers(host.counts)};
}

/// Where a run's micro-batches come from: any function that gives micro-batch n, from 0, the same at every
/// call, all of one shape and kind. `Batches` is one, over tokens; a program's own may collate, pad and mask.
using BatchSource = std::function<HostBatch(Index n)>;

/// The training loop's body: forward, backward, clip, AdamW, router biases. State is the model, the moments
/// and the step; batches and noise are functions of seed and step, so equal states go on equally.
///
/// step() takes one step and waits for its figures. A loop that wants to keep a GPU busy calls advance() and
/// asks for reports() now and then.
///
/// Several processes train one model, each on its device, where a group of more than one rank is given: they
/// take turns at the micro-batches of a step, and it has the bits of one process that takes them all. Every
/// rank makes the same calls, and has the same reports and weights.
template <typename T, typename D>
class Trainer {
 public:
  /// Throws ConfigError for options that make no sense, or batches that do not suit the model.
  Trainer(Transformer<T, D>& model, const TrainOptions& options, BatchSource batches)
      : Trainer(model, options, std::move(batches), Group<D>(model.device())) {}
  /// The same for one rank of a group. accumulation: a multiple of the ranks
  Trainer(Transformer<T, D>& model, const TrainOptions& options, BatchSource batches, const Group<D>& group)
      : Trainer(model, options, std::move(batches), group, Group<D>(model.device())) {}
  /// The same for a stage of a pipeline, see TrainStep; all ranks ask for reports() at the same steps.
  Trainer(Transformer<T, D>& model, const TrainOptions& options, BatchSource batches, const Group<D>& group,
          const Group<D>& stages)
      : options_(options),
        batches_(std::move(batches)),
        vocabulary_(model.config.vocab_size),
        step_(model, windows(model, options, batches_(0), group.size()), options.step, group, stages),
        losses_(model.device(), {ring, step_.losses().size()}),
        norms_(model.device(), {ring}) {
    queued_.reserve(static_cast<std::size_t>(ring));  // a step that was taken is noted, come what may
  }

  /// The steps that are left, until on_step(const StepReport&) returns false, if it returns anything: true if
  /// they were all taken. A
  /// GPU, which has steps queued, is asked every `every` steps, so that on_step may come later than the step.
  template <typename OnStep>
  bool run(const OnStep& on_step, Index every = HostMemory<D> ? 1 : 16) {
    while (steps_ < options_.steps) {
      advance();
      if (steps_ % every != 0 && steps_ != options_.steps) continue;
      for (const StepReport& report : reports()) {
        if (!detail::goes_on(on_step, report)) return false;
      }
    }
    return true;
  }

  /// One optimiser step. Throws NumericError, before anything is changed, when the loss or the gradient norm
  /// is not finite.
  StepReport step() {
    advance();
    std::vector<StepReport> all = reports();
    return std::move(all.back());
  }

  /// Queues one optimiser step and does not wait for it: not even for its loss, which stays on the device
  /// until somebody asks for reports(), or 64 steps have been queued. A step that is not finite changes
  /// nothing, nor do those behind it; that is reported then.
  void advance() {
    if (queued_.size() == static_cast<std::size_t>(ring)) collect();
    StepReport report;
    report.step = steps_ + 1;
    report.lr = options_.schedule ? options_.schedule(steps_, options_.steps)
                                  : options_.lr.at(steps_, options_.steps);
    if (!(report.lr >= 0 && std::isfinite(report.lr)))
      throw ConfigError(cat("[train] step ", report.step, ": the schedule gives ", report.lr,
                            ", a learning rate must be 0 or positive"));
    report.lambda = options_.lambda.at(options_.step.loss.lambda, steps_, options_.steps);
    Index number = steps_ * options_.accumulation + group().rank();
    for (const Batch<D>& input : step_.inputs()) {
      const HostBatch host = batches_(number);
      host.check(vocabulary_);
      const auto assign = [&](const Tensor<std::int32_t, D>& to, const std::vector<std::int32_t>& from) {
        const auto size = to.defined() ? static_cast<std::size_t>(to.size()) : 0;
        if (from.size() != size)
          throw ConfigError(
              cat("[data] micro-batch ", number,
                  " is not of the first one's shape, or has no positions or counts where it has"));
        if (size > 0) to.assign(from);
      };
      assign(input.tokens, host.tokens);
      assign(input.positions, host.positions);
      assign(input.counts, host.counts);
      number += group().size();
    }
    step_.set_lambda(report.lambda);
    step_(report.lr);
    const Tensor<acc_t<T>, D>& losses = step_.losses();
    const auto slot = static_cast<Index>(queued_.size());
    copy_on_device(losses.device(), losses_.data() + slot * losses.size(), losses.data(), losses.bytes());
    copy_on_device(losses.device(), norms_.data() + slot, step_.norm().data(), step_.norm().bytes());
    queued_.push_back(std::move(report));
    ++steps_;
  }

  /// Waits for all queued steps and returns what those since the last call showed, in order. Throws
  /// NumericError, naming the step, when the loss or the gradient norm of one is not finite; then the state
  /// is that of the step before, of which the next call still reports.
  std::vector<StepReport> reports() {
    collect();
    return std::exchange(finished_, {});
  }

  /// Goes on behind `steps` steps that another trainer took. Weights and optimizer()'s state are the caller's
  /// to load (io/tensor_file.hpp); with them, what follows has the bits of a run that was not interrupted.
  void resume(Index steps) {
    collect();
    steps_ = steps;
    step_.rewind(steps);
  }

  /// See TrainStep::make_room(); of a pass that no step took.
  bool make_room() { return step_.make_room(); }

  /// Steps taken or queued.
  Index steps_done() const { return steps_; }
  /// The ranks that train together, each with the same part of the model.
  const Group<D>& group() const { return step_.group(); }
  /// The ranks that have the model's parts.
  const Group<D>& stages() const { return step_.stages(); }
  /// The options as they were given.
  const TrainOptions& options() const { return options_; }
  /// The optimiser with its moments, to save them or to go on from saved ones.
  AdamW<T, D>& optimizer() { return step_.optimizer(); }

 private:
  static constexpr Index ring = 64;  // steps whose figures the device keeps

  static void check(const Transformer<T, D>& model, const TrainOptions& options, const HostBatch& batch,
                    int ranks) {
    const auto rule = [](bool holds, const char* name, const auto& value, const auto& text) {
      if (!holds) throw ConfigError(cat("[train] ", name, " = ", value, ": ", text));
    };
    rule(options.steps >= 1, "steps", options.steps, "must be at least 1");
    rule(options.accumulation >= 1, "accumulation", options.accumulation, "must be at least 1");
    rule(options.accumulation % ranks == 0, "accumulation", options.accumulation,
         cat("must be a multiple of the ", ranks, " ranks, which share a step's micro-batches"));
    rule(options.lr.peak >= 0 && std::isfinite(options.lr.peak), "lr", options.lr.peak,
         "must be 0 or positive");
    rule(options.step.clip >= 0, "clip", options.step.clip, "must be 0 (none) or positive");
    const double gamma = options.step.bias_update_speed;
    rule(gamma >= 0 && std::isfinite(gamma), "bias_update_speed", gamma, "must be 0 or positive");
    const double room = options.step.expert_room;
    rule(room >= 1 && std::isfinite(room), "expert_room", room, "must be at least 1, the mean");
    for (const double lambda : {options.step.loss.lambda, options.lambda.late})
      rule(lambda >= 0 && std::isfinite(lambda), "lambda", lambda, "must be 0 or positive");
    const double distill = options.step.loss.distill;
    rule(distill >= 0 && distill <= 1, "distill", distill, "a share, from 0 to 1");
    const Index seq = batch.seq, longest = model.config.max_position_embeddings;
    const Index depth = model.config.num_nextn_predict_layers;
    const auto weights = static_cast<Index>(options.step.loss.depth_weights.size());
    rule(weights <= depth, "depth_weights", cat(weights, " numbers"), cat("there are ", depth, " depths"));
    rule(seq <= longest, "seq", seq, cat("must not exceed max_position_embeddings = ", longest));
    rule(seq > depth, "seq", seq, cat("must be larger than num_nextn_predict_layers = ", depth));
    if (model.main_frozen() && model.config.num_nextn_predict_layers == 0)
      throw ConfigError("[train] the main model is frozen and the depth is 0: nothing would train");
    batch.check(model.config.vocab_size);
  }

  /// Memory for the windows of a step.
  static std::vector<Batch<D>> windows(const Transformer<T, D>& model, const TrainOptions& options,
                                       const HostBatch& first, int ranks) {
    check(model, options, first, ranks);
    std::vector<Batch<D>> all;
    for (Index micro = 0; micro < options.accumulation / ranks; ++micro)
      all.push_back(upload(model.device(), first, options.mask_documents));
    return all;
  }

  /// Moves what is queued to finished_; where memory runs out, nothing has been moved.
  void collect() {
    if (queued_.empty()) return;
    if constexpr (!HostMemory<D>) {  // whoever just waits does so for a rank that is gone, too
      group().check();
      stages().check();
    }
    const auto count = static_cast<Index>(queued_.size());
    const auto losses = losses_.slice_front(0, count).to_host();  // [count, accumulation, 1 + heads]
    const auto norms = norms_.slice_front(0, count).to_host();    // [count]
    const double share = 1.0 / static_cast<double>(options_.accumulation);
    const auto micros = static_cast<std::size_t>(options_.accumulation);
    const auto numbers = static_cast<std::size_t>(step_.losses().size()), rows = numbers / micros;
    std::vector<StepReport> done = queued_;
    const auto finite = [](const StepReport& report) {
      return std::isfinite(report.total) && std::isfinite(report.gradient_norm);
    };
    for (std::size_t i = 0; i < done.size(); ++i) {
      const auto mean = [&](std::size_t row) {
        double sum = 0;
        for (std::size_t micro = 0; micro < micros; ++micro)
          sum += share * static_cast<double>(losses[i * numbers + micro * rows + row]);
        return sum;
      };
      done[i].total = mean(0);
      for (std::size_t row = 1; row < rows; ++row) done[i].loss.push_back(mean(row));
      done[i].gradient_norm = norms[i];
    }
    const auto bad = std::find_if_not(done.begin(), done.end(), finite);
    std::string text;
    if (bad != done.end())
      text = cat("[train] step ", bad->step, ": loss ", bad->total, " and gradient norm ", bad->gradient_norm,
                 " must be finite; the weights are those of the step before");
    finished_.reserve(finished_.size() + done.size());
    finished_.insert(finished_.end(), std::make_move_iterator(done.begin()), std::make_move_iterator(bad));
    queued_.clear();
    if (bad == done.end()) return;
    const Index taken = std::exchange(steps_, bad->step - 1);
    if (step_.make_room()) {
      step_.rewind(steps_);
      while (steps_ < taken) advance();
      return collect();
    }
    step_.rewind(steps_);
    throw NumericError(text);
  }

  TrainOptions options_;
  BatchSource batches_;
  Index vocabulary_;
  TrainStep<T, D> step_;
  Tensor<acc_t<T>, D> losses_;      // [ring, what step_.losses() holds]
  Tensor<double, D> norms_;         // [ring]
  std::vector<StepReport> queued_;  // whose figures are still there: slot i belongs to entry i
  std::vector<StepReport> finished_;
  Index steps_ = 0;
};

namespace detail {

/// What is summed over a window batch: bytes of the main head's labels; then of each depth rows that count,
/// loss, hits and agreements. Numbers of depths that ran past the window's end are 0.
template <typename A, typename D>
std::vector<double> evaluation_sums(const std::vector<CrossEntropy<A, D>>& depths, const HostBatch& host,
                                    std::span<const std::int32_t> token_bytes, Index depth) {
  const std::vector<std::int32_t> main = depths[0].argmax.to_host();
  std::vector<double> sums(1);
  for (std::size_t k = 0; k < depths.size(); ++k) {
    const auto row_loss = depths[k].row_loss.to_host();
    const auto best = depths[k].argmax.to_host();
    const auto ahead = static_cast<Index>(k);
    double rows = 0, total = 0, hits = 0, same = 0;
    for (Index b = 0; b < host.batch; ++b) {
      for (Index t = 0; t + ahead < host.seq; ++t) {
        if (!host.is_label(b, t, ahead + 1)) continue;
        const auto at = static_cast<std::size_t>(b * (host.seq - ahead) + t);
        const std::int32_t label = host.token(b, t + ahead + 1);
        rows += 1;
        if (k == 0) sums[0] += token_bytes.empty() ? 1 : token_bytes[static_cast<std::size_t>(label)];
        total += static_cast<double>(row_loss[at]);
        hits += best[at] == label ? 1 : 0;
        same += best[at] == main[static_cast<std::size_t>(b * host.seq + t + ahead)] ? 1 : 0;
      }
    }
    sums.insert(sums.end(), {rows, total, hits, same});
  }
  sums.resize(static_cast<std::size_t>(1 + 4 * (1 + depth)));
  return sums;
}

/// Adds up what the ranks have summed, window batch by window batch in their order: of copies of a model, a
/// rank for each of its `stages`, copy c has every batch whose number is c modulo the copies.
///
/// own: evaluation_sums() of this rank's, one behind the other; of the last stages alone they count
inline Evaluation joined_evaluation(std::vector<double> own, Index depth, Index batches,
                                    const Group<Cpu>& ranks, Index stages = 1) {
  const Index copies = ranks.size() / stages, each = (batches + copies - 1) / copies;
  const auto width = static_cast<std::size_t>(1 + 4 * (1 + depth));
  const auto place = [&](Index rank, Index n) { return static_cast<std::size_t>(rank * each + n) * width; };
  std::vector<double> all(place(ranks.size(), 0));
  own.resize(place(1, 0));
  ranks.all_gather(own.data(), all.data(), own.size() * sizeof(double));
  std::vector<double> sums(width);
  for (Index i = 0; i < batches; ++i) {
    const std::size_t at = place((i % copies + 1) * stages - 1, i / copies);
    for (std::size_t j = 0; j < width; ++j) sums[j] += all[at + j];
  }
  Evaluation result;
  result.bytes = static_cast<Index>(sums[0]);
  for (std::size_t at = 1; at < width; at += 4) {
    const double rows = std::max(1.0, sums[at]);
    result.rows.push_back(static_cast<Index>(sums[at]));
    result.loss.push_back(sums[at + 1] / rows);
    result.accuracy.push_back(sums[at + 2] / rows);
    result.agreement.push_back(sums[at + 3] / rows);
  }
  return result;
}

}  // namespace detail

/// Loss and acceptance of all depths over validation windows (any type with size() and at(i) -> HostBatch).
/// Sums are those of each at(i), added in the order of i.
///
/// token_bytes: how many bytes of text each id stands for; none given: a byte each   ranks: that share the
/// windows, each with the whole model; every rank makes the call and gets what one of them alone would get
template <typename T, typename D, typename Windows>
Evaluation evaluate(const Transformer<T, D>& model, const Windows& windows, bool mask_documents = false,
                    std::span<const std::int32_t> token_bytes = {},
                    const Group<Cpu>& ranks = Group<Cpu>(Cpu(1))) {
  const Index depth = model.config.num_nextn_predict_layers;
  std::vector<double> own;
  for (Index i = ranks.rank(); i < windows.size(); i += ranks.size()) {
    const HostBatch host = windows.at(i);
    const Batch<D> batch = upload(model.device(), host, mask_documents);
    Tape tape(Mode::inference);
    const auto loss = mtp_loss(model, model(tape, batch), batch);
    const std::vector<double> sums = detail::evaluation_sums(loss.depths, host, token_bytes, depth);
    own.insert(own.end(), sums.begin(), sums.end());
  }
  return detail::joined_evaluation(std::move(own), depth, windows.size(), ranks);
}

}  // namespace mtpx
