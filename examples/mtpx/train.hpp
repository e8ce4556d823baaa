#pragma once
// What the files of `mtpx train` share: its flags, and what they say to read.

#include "ranks.hpp"
#include "run_folder.hpp"
#include "text.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace program {

/// The flags of `mtpx train`.
struct TrainFlags {
  std::vector<std::string> data, validation_data;
  std::string out;
  ModelSource init;
  ConfigSource config;
  std::string tokenizer;
  mtpx::Index vocabulary = 0;
  bool tie_word_embeddings = false;
  mtpx::Index depth = -1;
  mtpx::Index draft_vocabulary = -1;
  mtpx::TrainOptions train;
  mtpx::BatchOptions batches{.seed = 1337};
  std::string heads;
  mtpx::Index markov_rank = -1;
  double lambda = -1;
  double lambda_late = -1;
  std::string reduction;
  double depth_decay = -1;
  std::string distill;
  double distill_share = 1;
  bool copy_modules = false;
  bool freeze_main = false;
  bool detach_depths = false;
  std::string divisor = "valid";
  double validation = 0.1;
  mtpx::Index eval_every = 0;
  mtpx::Index eval_windows = 64;
  std::string prompt;
  bool activation_checkpointing = false;
  bool force = false;
  bool overfit = false;
  bool export_no_mtp = false;
  bool sidecar = false;
  bool tensorboard = false;
  bool dry_run = false;
  CheckpointFlags checkpoints;
  mtpx::Index text_memory = 256;
  std::string layout;          ///< of a pipeline; empty: every rank has the whole model
  bool share_experts = false;  ///< each copy has a part of the experts of every mixture
  mtpx::Json facts;
  DeviceOptions device;

  /// Steps between validations, and between checkpoints (0: none but when told).
  mtpx::Index evaluate_every() const {
    return eval_every > 0 ? eval_every : std::max<mtpx::Index>(1, train.steps / 4);
  }
  mtpx::Index save_every() const { return checkpoints.every >= 0 ? checkpoints.every : evaluate_every(); }

  /// What of a model the flags turn on.
  template <typename T, typename D>
  void set_switches(mtpx::Transformer<T, D>& model) const {
    model.activation_checkpointing = activation_checkpointing;
    model.detach_depths = detach_depths;
    if (freeze_main) model.freeze_main();
  }
};

/// The flags of a training that `mtpx train` and `mtpx distill` share; defaults are what `flags` has.
void add_training_flags(CLI::App& command, TrainFlags& flags);

/// Trains with the processes of `world`, and writes what --out is to have.
void run_training(TrainFlags flags, const mtpx::World& world);

/// What a training reads.
struct TrainInput {
  mtpx::ModelConfig source;  ///< the model's configuration, with what flags say over it
  mtpx::Tokenizer tokenizer;
  mtpx::TokenizerFiles tokenizer_files;  ///< as they are laid beside the model
  std::shared_ptr<const mtpx::Batches> batches;
  mtpx::ValidationWindows windows;
  std::optional<std::vector<std::int32_t>> draft_ids;  ///< if they are not those that the model has
  mtpx::Json facts;                                    ///< what decides the run's bits
  std::string text;                                    ///< how much of it there is, for people

  mtpx::Index depth() const { return source.config.num_nextn_predict_layers; }
  mtpx::BatchSource source_of_batches() const {
    return [all = batches](mtpx::Index n) { return all->at(n); };
  }
};

/// Reads configuration, text and tokenizer, and completes the flags by what these say. `from`: the checkpoint
/// that the run goes on from, which must be of this run (check_facts); device: by name; out: where the tokens
/// of a large text are kept, of which say(text) hears.
TrainInput read_input(TrainFlags& o, const std::optional<mtpx::Checkpoint>& from, const char* device,
                      const RunFolder& out, const std::function<void(const std::string&)>& say);

/// Throws ConfigError if the configuration, which was read from there, keeps weights in 8 bits.
void refuse_int8(const mtpx::Config& config, const std::string& from);

}  // namespace program
