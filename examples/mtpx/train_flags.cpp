// The flags that all trainings have.

#include "train.hpp"

namespace program {

void add_training_flags(CLI::App& training, TrainFlags& o) {
  CLI::App* command = &training;
  command->add_option("--data", o.data,
                      "Files or folders of text, or a token file; default: this repository's own");
  command
      ->add_option("--text-memory", o.text_memory,
                   "MiB of text that are held in memory; the tokens of more go to a file in --out first")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  add_depths(*command, o.depth, o.heads);
  command
      ->add_option("--markov-rank", o.markov_rank,
                   "Rank of a bias that tells a depth the token before the one that it predicts, over "
                   "mtpx_markov_rank; 0 = none")
      ->check(CLI::Range(0, 1 << 16));
  command->add_option("--steps", o.train.steps, "Optimiser steps")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option("--batch", o.batches.batch, "Windows per micro-batch")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--seq", o.batches.seq, "Tokens per window, T")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--accumulation", o.train.accumulation, "Micro-batches per step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--lr", o.train.lr.peak, "Peak learning rate")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--warmup", o.train.lr.warmup, "Steps of the linear rise, at most a tenth of all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--weight-decay", o.train.step.adamw.weight_decay, "Decay of matrices")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--clip", o.train.step.clip, "Largest gradient norm; 0 = any")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  auto* weights = command
                      ->add_option("--depth-weights", o.train.step.loss.depth_weights,
                                   "Weights of depths 1, 2, .., separated by commas; missing ones are 1")
                      ->delimiter(',')
                      ->check(CLI::NonNegativeNumber);
  command
      ->add_option(
          "--depth-decay", o.depth_decay,
          "Weight of depth k is this to the power k - 1; default: 1, for repeated heads 0.6, with the "
          "sum of the depths' weights as it was")
      ->check(CLI::PositiveNumber)
      ->excludes(weights);
  auto* distill =
      command
          ->add_option("--distill", o.distill,
                       "Depths learn from the main head: ce = cross-entropy with its distribution, kl, tv = "
                       "the total variation, which is the share of drafts that fail")
          ->check(CLI::IsMember({"ce", "kl", "tv"}));
  auto* share = command
                    ->add_option("--distill-share", o.distill_share,
                                 "Share of --distill in a depth's loss; the labels have the rest")
                    ->check(CLI::Range(0.0, 1.0))
                    ->capture_default_str();
  if (o.distill.empty()) {
    share->needs(distill);
  } else {
    distill->capture_default_str();
  }
  command->add_option("--bias-speed", o.train.step.bias_update_speed, "Gamma of the router biases")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--mask-documents", o.train.mask_documents, "Attention stays inside documents");
  command->add_flag("--checkpoint-activations", o.activation_checkpointing, "Less memory, one more forward");
  command->add_option("--validation", o.validation, "Share of the text held out")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str();
  command->add_option(
      "--validation-data", o.validation_data,
      "Files or folders, or a token file, to validate on instead; then all of --data is trained on");
  command->add_option("--eval-every", o.eval_every, "Steps between validations; default: a quarter of all")
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--eval-windows", o.eval_windows, "Most validation windows")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option(
      "--prompt", o.prompt,
      "Start of the text sample shown with each validation; default: that of the held-out text");
  command->add_flag("--force", o.force, "Replace the model in --out");
  command->add_option("--seed", o.batches.seed, "Seed of weights and shuffling")->capture_default_str();
  o.device.add(*command);
  o.checkpoints.add(*command);
  command->add_flag("--dry-run", o.dry_run,
                    "Print the configuration and what the run takes of memory and disk, and do nothing: exit "
                    "code 6 or 4 if it does not fit");
  command->add_flag("--tensorboard", o.tensorboard,
                    "Write figures to an event file in --out, too: tensorboard --logdir shows them");
}

}  // namespace program
