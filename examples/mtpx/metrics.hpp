#pragma once
// The rows of a training's metrics.jsonl and times.jsonl: what writes them and what reads them share their
// names.

#include "checked_json.hpp"

#include <mtpx/io/event_file.hpp>
#include <mtpx/model/transformer.hpp>
#include <mtpx/train/trainer.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace program {

/// Share of the latest step's tokens that each expert received, [layer][expert]; layers as published names
/// count them, depths behind the main model's. A layer without experts, or whose router does not train, has
/// none.
template <typename T, typename D>
std::vector<std::vector<double>> expert_loads(const mtpx::Transformer<T, D>& model) {
  std::vector<std::vector<double>> shares;
  const auto add = [&](const mtpx::Block<T, D>* block) {
    std::vector<double>& layer = shares.emplace_back();
    if (block == nullptr || !block->moe) return;
    double slots = 0;
    for (const auto load : block->moe->last_load.to_host()) {
      layer.push_back(static_cast<double>(load));
      slots += layer.back();
    }
    if (slots == 0) layer.clear();
    for (double& share : layer) share /= slots;
  };
  for (const auto& block : model.layers) add(&block);
  for (const auto& depth : model.mtp) add(depth.block ? &*depth.block : nullptr);
  return shares;
}

/// The most loaded expert's share over the balanced one: 1 where all are equally busy.
inline double largest_over_balanced(const std::vector<double>& shares) {
  return *std::max_element(shares.begin(), shares.end()) * static_cast<double>(shares.size());
}

/// What a step showed, but for the time it took: resumed and uninterrupted runs write the same.
inline mtpx::Json step_row(const mtpx::StepReport& report) {
  return {{"step", report.step}, {"loss", report.loss},     {"total", report.total},
          {"lr", report.lr},     {"lambda", report.lambda}, {"gradient_norm", report.gradient_norm}};
}

/// What a validation showed.   sample: text after the prompt; loads: expert_loads() of the model
inline mtpx::Json evaluation_row(mtpx::Index step, const mtpx::Evaluation& e, const std::string& sample,
                                 const std::vector<std::vector<double>>& loads) {
  mtpx::Json row{{"step", step},
                 {"validation_loss", e.loss},
                 {"acceptance", e.accuracy},
                 {"agreement", e.agreement},
                 {"bits_per_byte", e.bits_per_byte()}};
  if (!sample.empty()) row["sample"] = sample;
  bool any = false;
  for (const auto& layer : loads) any = any || !layer.empty();
  if (any) row["expert_load"] = loads;
  return row;
}

/// How fast steps were, of times.jsonl.
inline mtpx::Json time_row(mtpx::Index step, double tokens_per_s) {
  return {{"step", step}, {"tokens_per_s", tokens_per_s}};
}

/// The most memory at once, of times.jsonl: tensors on their device, and the process on the host.
inline mtpx::Json memory_row(mtpx::Index step, std::size_t tensors, std::size_t process) {
  return {{"step", step}, {"peak_bytes", tensors}, {"peak_rss_bytes", process}};
}

/// "main" or "depth_1": a head in the tags of TensorBoard.
inline std::string head_tag(std::size_t k) { return k == 0 ? "main" : mtpx::cat("depth_", k); }

/// The rows above as figures of TensorBoard.
inline void add_events(mtpx::EventFile& file, const mtpx::StepReport& report) {
  for (std::size_t k = 0; k < report.loss.size(); ++k)
    file.add(report.step, "loss/" + head_tag(k), report.loss[k]);
  file.add(report.step, "loss/total", report.total);
  file.add(report.step, "train/lr", report.lr);
  file.add(report.step, "train/lambda", report.lambda);
  file.add(report.step, "train/gradient_norm", report.gradient_norm);
}
inline void add_events(mtpx::EventFile& file, mtpx::Index step, const mtpx::Evaluation& e,
                       const std::vector<std::vector<double>>& loads) {
  for (std::size_t k = 0; k < e.loss.size(); ++k) {
    file.add(step, "validation/loss_" + head_tag(k), e.loss[k]);
    file.add(step, "validation/acceptance_" + head_tag(k), e.accuracy[k]);
  }
  file.add(step, "validation/bits_per_byte", e.bits_per_byte());
  for (std::size_t i = 0; i < loads.size(); ++i) {
    if (!loads[i].empty())
      file.add(step, mtpx::cat("expert_load/layer_", i, "_most"), largest_over_balanced(loads[i]));
  }
}

}  // namespace program
