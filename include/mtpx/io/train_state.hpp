#pragma once
// A training run as a checkpoint, and back.

#include <mtpx/io/checkpoint.hpp>
#include <mtpx/io/model_folder.hpp>
#include <mtpx/train/across_stages.hpp>
#include <mtpx/train/trainer.hpp>

#include <exception>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>

namespace mtpx {

namespace detail {
/// The tensors, and the optimiser's state, of the whole model: what a slice may find in its files beside its
/// own.
template <typename T, typename D>
Elsewhere of_other_slices(const Transformer<T, D>& model) {
  if (model.slice == ModelSlice::whole(model.config.num_hidden_layers)) return {};
  const Transformer<T, Meta> whole(Meta(), model.config, model.design);
  std::set<std::string> names;
  for_each_tensor(whole, [&](const std::string& name, const auto&) {
    for (const char* what : {"", ".exp_avg", ".exp_avg_sq", ".master"}) names.insert(name + what);
  });
  return [names = std::move(names)](const std::string& name) { return names.contains(name); };
}

/// What ranks do together for a snapshot's passes over tensors: each of them so often, even where the one
/// that keeps the tensors cannot.
template <typename Pass>
class SharedPasses {
 public:
  /// pass(visit): one of them
  explicit SharedPasses(Pass pass) : pass_(std::move(pass)) {}

  /// A pass to its end; what a visit throws comes out behind it.
  template <typename Visit>
  void operator()(const Visit& visit) {
    std::exception_ptr failed;
    ++done_;
    pass_([&](const std::string& name, const auto& tensor) {
      if (failed) return;
      try {
        visit(name, tensor);
      } catch (...) {
        failed = std::current_exception();
      }
    });
    if (failed) std::rethrow_exception(failed);
  }
  /// Those that are left, without a visit.
  void finish() {
    while (done_ < TensorSnapshot::passes) (*this)([](const std::string&, const auto&) {});
  }

 private:
  Pass pass_;
  int done_ = 0;
};

/// Shows rank 0 what each(visit) shows on every rank that trains a part of the model. Every rank makes the
/// call.
template <typename T, typename D, typename Each, typename Visit>
void across_ranks(const Trainer<T, D>& trainer, const Transformer<T, D>& part, const Each& each,
                  const Visit& visit) {
  const auto of_copies = [&](const auto& show) {
    across_experts(trainer.group(), part.config.n_routed_experts, part.slice.expert_parts, each, show);
  };
  // Copies but the first have experts at most, and only show them to the first.
  if (trainer.group().rank() == 0) return across_stages<T>(trainer.stages(), of_copies, visit);
  of_copies([](const std::string&, const auto&) {});
}
/// The tensors of the whole model's file, so.
template <typename T, typename D>
auto weights_across_ranks(const Trainer<T, D>& trainer, const Transformer<T, D>& part) {
  return SharedPasses([&](const auto& visit) {
    const auto each = [&](const auto& show) {
      if (trainer.stages().rank() == 0) return for_each_of_file(part, show);
      for_each_tensor(part, show);
    };
    across_ranks(trainer, part, each, visit);
  });
}
}  // namespace detail

/// Saves what a run goes on from, after the steps whose reports() have been read: config.json and
/// model.safetensors, which are a model folder for whoever wants to look at the model as it is, and
/// optimizer.safetensors. Batches and noise are functions of the step (Trainer), so there is nothing else.
/// Copies to the host, then returns; see Checkpoints::save() for the rest, errors too.
///
/// Ranks that train together all make this call; rank 0's files have what those of one process have, and the
/// others write none. Stages of a pipeline show it their tensors one by one.
///
/// run: what the program will want to know   extra, tokenizer: as save_model() takes them
/// more(Files&): other files
template <typename T, typename D>
void save_training(Checkpoints& checkpoints, Trainer<T, D>& trainer, Transformer<T, D>& model, Json run,
                   const Json& extra = Json::object(), const std::optional<TokenizerFiles>& tokenizer = {},
                   const std::function<void(Checkpoints::Files&)>& more = {}) {
  auto weights = detail::weights_across_ranks(trainer, model);
  detail::SharedPasses states([&](const auto& visit) {
    const auto each = [&](const auto& show) { trainer.optimizer().for_each_state(model, show); };
    detail::across_ranks(trainer, model, each, visit);
  });
  const auto finish = [&] {
    weights.finish();
    states.finish();
  };
  if (trainer.stages().rank() != 0 || trainer.group().rank() != 0) return finish();
  const auto fill = [&](Checkpoints::Files& files) {
    AdamW<T, D>& optimizer = trainer.optimizer();
    const std::string config = config_json(model.config, detail::with_dtype<T>(extra));
    files.text("config.json", config);
    files.tensors(detail::weights_name, std::ref(weights), detail::folder_metadata(config, tokenizer));
    files.tensors("optimizer.safetensors", std::ref(states), detail::optimizer_metadata(optimizer));
    if (tokenizer && !tokenizer->tokenizer.empty()) files.text(detail::tokenizer_name, tokenizer->tokenizer);
    for (const auto& [name, text] : detail::side_files) {
      if (tokenizer && !((*tokenizer).*text).empty()) files.text(name, (*tokenizer).*text);
    }
    if (more) more(files);
  };
  try {
    checkpoints.save(trainer.steps_done(), std::move(run), fill);
  } catch (const FileError&) {
    finish();  // the other ranks are at it
    throw;
  }
}

/// save_model() of what ranks have trained together, which rank 0 writes: not the model, but a copy of it
/// stands in its host's memory meanwhile, where it has a part of the model. Every rank makes the call. Throws
/// FileError, there.
template <typename T, typename D>
void save_trained(const std::filesystem::path& folder, const Trainer<T, D>& trainer,
                  const Transformer<T, D>& model, const Json& extra = Json::object(), bool mtp = true,
                  const std::optional<TokenizerFiles>& tokenizer = {}) {
  const bool leads = trainer.stages().rank() == 0 && trainer.group().rank() == 0;
  if (trainer.stages().size() == 1 && model.slice.expert_parts == 1) {
    if (leads) save_model(folder, model, extra, mtp, tokenizer);
    return;
  }
  auto weights = detail::weights_across_ranks(trainer, model);
  if (!leads) return weights.finish();
  try {
    detail::save_folder<T>(folder, model.config, std::ref(weights), extra, mtp, tokenizer,
                           [](const auto& path, const auto& each, const auto& metadata, const auto& finish) {
                             TensorSnapshot copy;
                             copy.take(each, metadata);
                             copy.write(path, finish);
                           });
  } catch (const FileError&) {
    weights.finish();  // the other ranks are at it
    throw;
  }
}

/// Puts a run where the checkpoint was: the model's weights, the optimiser's state, the step. What follows
/// has the bits of the run that was saved, on the same build and device. Throws FileError where the files do
/// not fit the model; then nothing has changed. A slice of a model reads its part of the whole one's files.
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
  const detail::Elsewhere elsewhere = detail::of_other_slices(model);
  detail::check_tensors(weights, each, elsewhere);
  load_optimizer(checkpoint.folder / "optimizer.safetensors", trainer.optimizer(), model, options, elsewhere);
  detail::read_tensors(weights, each);
  model.draft_from(draft_ids.to_host());
  model.config.mtpx_trained_window = saved.config.mtpx_trained_window;
  trainer.resume(checkpoint.step);
}

}  // namespace mtpx
