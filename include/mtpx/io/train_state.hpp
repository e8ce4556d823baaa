#pragma once
// A training run as a checkpoint, and back.

#include <mtpx/io/checkpoint.hpp>
#include <mtpx/io/model_folder.hpp>
#include <mtpx/train/trainer.hpp>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace mtpx {

/// Saves what a run goes on from, after the steps whose reports() have been read: config.json and
/// model.safetensors, which are a model folder for whoever wants to look at the model as it is, and
/// optimizer.safetensors. Batches and noise are functions of the step (Trainer), so there is nothing else.
/// Copies to the host, then returns; see Checkpoints::save() for the rest, errors too.
///
/// run: what the program will want to know   extra: keys of config.json that mtpx does not know
/// more(Files&): other files, such as the tokenizer
template <typename T, typename D>
void save_training(Checkpoints& checkpoints, Trainer<T, D>& trainer, Transformer<T, D>& model, Json run,
                   const Json& extra = Json::object(),
                   const std::function<void(Checkpoints::Files&)>& more = {}) {
  checkpoints.save(trainer.steps_done(), std::move(run), [&](Checkpoints::Files& files) {
    AdamW<T, D>& optimizer = trainer.optimizer();
    files.text("config.json", config_json(model.config, detail::with_dtype<T>(extra)));
    files.tensors("model.safetensors", [&](const auto& visit) { detail::for_each_of_file(model, visit); });
    files.tensors(
        "optimizer.safetensors", [&](const auto& visit) { optimizer.for_each_state(model, visit); },
        detail::optimizer_metadata(optimizer));
    if (more) more(files);
  });
}

/// Puts a run where the checkpoint was: the model's weights, the optimiser's state, the step. What follows
/// has the bits of the run that was saved, on the same build and device. Throws FileError where the files do
/// not fit the model; then nothing has changed.
template <typename T, typename D>
void load_training(const Checkpoint& checkpoint, Trainer<T, D>& trainer, Transformer<T, D>& model,
                   SafeTensorsOptions options = {}) {
  const ModelConfig saved = read_config(checkpoint.folder / "config.json");
  const SafeTensors weights = SafeTensors::open(checkpoint.folder / "model.safetensors", options);
  const Index drafts = saved.config.mtpx_draft_vocabulary;
  const Tensor<std::int32_t, Cpu> draft_ids(Cpu(1), {drafts});
  const auto each = [&](const auto& visit) {
    for_each_tensor(model, visit);
    if (drafts > 0) visit(detail::draft_ids_name, draft_ids);
  };
  detail::check_tensors(weights, each);
  load_optimizer(checkpoint.folder / "optimizer.safetensors", trainer.optimizer(), model, options);
  detail::read_tensors(weights, each);
  model.draft_from(draft_ids.to_host());
  model.config.mtpx_trained_window = saved.config.mtpx_trained_window;
  trainer.resume(checkpoint.step);
}

/// A field of a run that is not what it was, as a text names it.
struct RunDifference {
  std::string field;   ///< keys joined by dots
  std::string before;  ///< its JSON, or "absent"
  std::string now;     ///< the same of the other
};

/// Where two descriptions of a run differ, field by field, in the order of `before`.
inline std::vector<RunDifference> run_differences(const Json& before, const Json& now) {
  std::vector<RunDifference> all;
  const auto text = [](const Json* value) {
    return value == nullptr ? std::string("absent") : value->dump();
  };
  const std::function<void(const std::string&, const Json*, const Json*)> compare =
      [&](const std::string& field, const Json* a, const Json* b) {
        if (a != nullptr && b != nullptr && *a == *b) return;
        if ((a == nullptr || !a->is_object()) && (b == nullptr || !b->is_object())) {
          all.push_back({field, text(a), text(b)});
          return;
        }
        const auto inner = [&](const std::string& key) { return field.empty() ? key : cat(field, '.', key); };
        const auto find = [](const Json* in, const std::string& key) {
          return in != nullptr && in->is_object() && in->contains(key) ? &(*in)[key] : nullptr;
        };
        if (a != nullptr && a->is_object()) {
          for (const auto& [key, value] : a->items()) compare(inner(key), &value, find(b, key));
        }
        if (b != nullptr && b->is_object()) {
          for (const auto& [key, value] : b->items()) {
            if (find(a, key) == nullptr) compare(inner(key), nullptr, &value);
          }
        }
      };
  compare("", &before, &now);
  return all;
}

/// Where they differ, as lines of an error text: "\n  lr: 0.01 then, 0.02 now". Empty where they do not, but
/// in fields that `overrides` names, or what they are in.
inline std::string run_differences_text(const Json& before, const Json& now,
                                        const std::vector<std::string>& overrides = {}) {
  std::string text;
  for (const RunDifference& d : run_differences(before, now)) {
    const bool meant = std::any_of(overrides.begin(), overrides.end(), [&](const std::string& field) {
      return d.field == field || d.field.starts_with(field + '.');
    });
    if (!meant) text += cat("\n  ", d.field, ": ", d.before, " then, ", d.now, " now");
  }
  return text;
}

}  // namespace mtpx
