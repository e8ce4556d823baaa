#pragma once

#include <mtpx/mtp/backward.hpp>
#include <mtpx/train/adamw.hpp>
#include <mtpx/train/batches.hpp>
#include <mtpx/train/schedule.hpp>

#include <cmath>

namespace mtpx {

struct TrainOptions {
  Index steps = 300;
  Index batch = 8;         ///< windows per micro-batch
  Index seq = 256;         ///< T, inputs per window
  Index accumulation = 1;  ///< micro-batches per optimiser step
  std::uint64_t seed = 1337;
  LearningRate lr{};
  LambdaSchedule lambda{};
  std::vector<double> depth_weights{};  ///< see MtpLossOptions
  LossDivisor divisor = LossDivisor::valid_rows;
  LossReduction reduction = LossReduction::mean;
  AdamWOptions adamw{};
  double clip = 1.0;                ///< of the global gradient norm; 0: none
  double bias_update_speed = 1e-3;  ///< gamma of the router biases; 0: they stay
  bool mask_documents = false;      ///< attention stays inside documents (DeepSeek-V3 sec. 4.1 does not)
};

/// What one optimiser step showed.
struct StepReport {
  Index step = 0;            ///< from 1
  std::vector<double> loss;  ///< [depth], nats a token, mean over the micro-batches
  double total = 0;          ///< what was minimised
  double lr = 0;
  double lambda = 0;
  double gradient_norm = 0;  ///< before clipping
};

/// What a pass over validation windows showed. Index 0 is the main head.
struct Evaluation {
  std::vector<double> loss;      ///< nats a token, over all rows of the depth
  std::vector<double> accuracy;  ///< share of rows whose argmax is the label: acceptance, teacher-forced
  std::vector<double>
      agreement;            ///< share of rows whose argmax is the main head's own choice for that position
  std::vector<Index> rows;  ///< labels that counted

  bool empty() const { return rows.empty() || rows[0] == 0; }
  /// Bits per byte of the main head, for tokens that are bytes.
  double bits_per_byte() const { return loss.empty() ? 0.0 : loss[0] / std::log(2.0); }
};

/// A batch of the host on a device.
template <typename D>
Batch<D> upload(const D& device, const HostBatch& host, bool mask_documents = false) {
  const Shape shape{host.batch, host.seq + 1};
  return {Tensor<std::int32_t, D>::from(device, shape, host.tokens),
          Tensor<std::int32_t, D>::from(device, shape, host.positions), mask_documents};
}

/// The training loop's body: forward, backward, clip, AdamW, router biases. State is the model, the moments
/// and the step; batches and noise are functions of seed and step, so equal states go on equally.
template <typename T, typename D>
class Trainer {
 public:
  Trainer(Transformer<T, D>& model, const TrainOptions& options, Batches batches)
      : model_(model), options_(options), batches_(std::move(batches)), optimizer_(options.adamw) {
    const auto check = [](bool holds, const char* name, const auto& value, const char* rule) {
      if (!holds) throw ConfigError(cat("[train] ", name, " = ", value, ": ", rule));
    };
    check(options.steps >= 1, "steps", options.steps, "must be at least 1");
    check(options.accumulation >= 1, "accumulation", options.accumulation, "must be at least 1");
    check(options.lr.peak >= 0 && std::isfinite(options.lr.peak), "lr", options.lr.peak,
          "must be 0 or positive");
    check(options.clip >= 0, "clip", options.clip, "must be 0 (none) or positive");
    check(options.seq <= model.config.max_position_embeddings, "seq", options.seq,
          "must not exceed max_position_embeddings");
    if (model.main_frozen() && model.config.num_nextn_predict_layers == 0)
      throw ConfigError("[train] the main model is frozen and the depth is 0: nothing would train");
    options_.lr.steps = options.steps;
  }

  /// One optimiser step. Throws NumericError, before anything is changed, when the loss or the gradient norm
  /// is not finite.
  StepReport step() {
    StepReport report;
    report.step = step_ + 1;
    report.lr = options_.lr.at(step_);
    report.lambda = options_.lambda.at(step_, options_.steps);
    const auto share = 1.0 / static_cast<double>(options_.accumulation);
    for (Index micro = 0; micro < options_.accumulation; ++micro) {
      const Batch<D> batch = upload(model_.device(), batches_.at(step_ * options_.accumulation + micro),
                                    options_.mask_documents);
      const auto loss =
          mtp_backward(model_, batch,
                       {report.lambda, options_.depth_weights, options_.divisor, options_.reduction}, share);
      report.total += share * read(loss.total.value());
      report.loss.resize(loss.depths.size());
      for (std::size_t k = 0; k < loss.depths.size(); ++k)
        report.loss[k] += share * read(loss.depths[k].loss.value());
    }
    const GradientClip<D> clip = clip_norm(model_, options_.clip);
    report.gradient_norm = clip.norm.to_host()[0];
    if (!std::isfinite(report.total) || !std::isfinite(report.gradient_norm)) {
      model_.zero_grad();
      model_.update_bias(0);  // forgets the loads of this step
      throw NumericError(cat("[train] step ", report.step, ": loss ", report.total, " and gradient norm ",
                             report.gradient_norm,
                             " must be finite; the weights are those of the step before"));
    }
    optimizer_.step(model_, clip, report.lr);
    model_.update_bias(options_.bias_update_speed);
    ++step_;
    return report;
  }

  Index steps_done() const { return step_; }
  const TrainOptions& options() const { return options_; }

 private:
  static double read(const Tensor<acc_t<T>, D>& number) { return static_cast<double>(number.to_host()[0]); }

  Transformer<T, D>& model_;
  TrainOptions options_;
  Batches batches_;
  AdamW<T, D> optimizer_;
  Index step_ = 0;
};

/// Loss and acceptance of all depths over validation windows (any type with size() and at(i) -> HostBatch).
template <typename T, typename D, typename Windows>
Evaluation evaluate(const Transformer<T, D>& model, const Windows& windows, bool mask_documents = false) {
  Evaluation result;
  std::vector<double> hits, same;
  for (Index i = 0; i < windows.size(); ++i) {
    const HostBatch host = windows.at(i);
    const Batch<D> batch = upload(model.device(), host, mask_documents);
    Tape tape(Mode::inference);
    const auto loss = mtp_loss(model, model(tape, batch), batch);
    const std::vector<std::int32_t> main = loss.depths[0].argmax.to_host();
    const std::size_t depths = loss.depths.size();
    for (auto* sums : {&result.loss, &hits, &same}) sums->resize(std::max(sums->size(), depths), 0.0);
    result.rows.resize(std::max(result.rows.size(), depths), 0);
    for (std::size_t k = 0; k < depths; ++k) {
      const auto row_loss = loss.depths[k].row_loss.to_host();
      const auto best = loss.depths[k].argmax.to_host();
      const auto ahead = static_cast<Index>(k);
      for (Index b = 0; b < host.batch; ++b) {
        for (Index t = 0; t + ahead < host.seq; ++t) {
          if (!host.same_document(b, t, ahead + 1)) continue;
          const auto at = static_cast<std::size_t>(b * (host.seq - ahead) + t);
          ++result.rows[k];
          result.loss[k] += static_cast<double>(row_loss[at]);
          hits[k] += best[at] == host.token(b, t + ahead + 1) ? 1 : 0;
          same[k] += best[at] == main[static_cast<std::size_t>(b * host.seq + t + ahead)] ? 1 : 0;
        }
      }
    }
  }
  for (std::size_t k = 0; k < result.rows.size(); ++k) {
    const double rows = std::max(1.0, static_cast<double>(result.rows[k]));
    result.loss[k] /= rows;
    result.accuracy.push_back(hits[k] / rows);
    result.agreement.push_back(same[k] / rows);
  }
  return result;
}

}  // namespace mtpx
