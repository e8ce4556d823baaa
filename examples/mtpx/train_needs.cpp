// What a training takes of memory and disk: in words, and whether it is there.

#include "train_needs.hpp"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <vector>

namespace program {

namespace {

std::string free_text(const std::optional<std::size_t>& bytes) {
  return bytes ? size_text(*bytes) + " free" : std::string("what is free is not known");
}

/// Layers that keep as much as the one before stand in one line with it.
std::string layers_text(const std::vector<mtpx::TrainingPlan::Part>& layers) {
  std::string text;
  for (std::size_t i = 0; i < layers.size();) {
    std::size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1].bytes == layers[i].bytes) ++last;
    text += mtpx::cat("    ", layers[i].name);
    if (last > i) text += mtpx::cat(" to ", layers[last].name, ", each");
    text += mtpx::cat(": ", size_text(layers[i].bytes), '\n');
    i = last + 1;
  }
  return text;
}

/// "weights 4.7 MiB, gradients .., optimiser .., what a step holds beside them .."
std::string parts_text(const mtpx::TrainingPlan& plan) {
  return mtpx::cat("weights ", size_text(plan.weights), ", gradients ", size_text(plan.gradients),
                   ", optimiser ", size_text(plan.moments + plan.masters), ", tables and batches ",
                   size_text(plan.other), ", a step ", size_text(plan.step));
}

}  // namespace

std::size_t TrainNeeds::disk_bytes() const {
  const std::size_t all = static_cast<std::size_t>(checkpoints) * checkpoint;
  return all - std::min(all, disk_held) + model;
}

void add_room(TrainNeeds& needs, const TrainFlags& o, mtpx::Index done,
              std::optional<std::size_t> device_free) {
  const std::filesystem::path folder = std::filesystem::path(o.out) / "checkpoints";
  const mtpx::Index every = o.save_every(), kept = o.checkpoints.kept.keep_every;
  const mtpx::Index there = done > 0 ? o.checkpoints.kept.keep_last : 0;
  const mtpx::Index saves = every > 0 ? o.train.steps / every - done / every : 1;
  const mtpx::Index stay =
      o.checkpoints.kept.keep_last + 1 + (every > 0 && kept > 0 ? o.train.steps / std::lcm(every, kept) : 0);
  needs.checkpoints = std::min(there + saves, stay);
  if (every > 0 && saves > 0) needs.copy = needs.plan.saved;
  needs.disk_held = disk_used(folder);
  needs.device_free = needs.on_host ? std::nullopt : device_free;
  needs.process = host_memory_now();
  needs.host_free = host_memory_free();
  if (const auto room = mtpx::disk_room(o.out)) needs.disk_free = static_cast<std::size_t>(*room);
}

std::string needs_text(const TrainNeeds& needs, const TrainFlags& o) {
  const mtpx::TrainingPlan& plan = needs.plan;
  std::string text;
  const auto line = [&](const char* what, const std::string& how_much) {
    text += mtpx::cat(what, ": ", how_much, '\n');
  };
  line("parameters", mtpx::cat(plan.parameters, ", ", plan.trained, " of them train"));
  line("weights", size_text(plan.weights));
  line("gradients", size_text(plan.gradients));
  line("optimiser", mtpx::cat(size_text(plan.moments + plan.masters), ": moments ", size_text(plan.moments),
                              ", masters ", size_text(plan.masters)));
  line("tables and batches", size_text(plan.other));
  line("a step beside these", size_text(plan.step));
  text += "  activations that a layer keeps for backward, of a micro-batch\n" + layers_text(plan.layers);
  line("peak of tensors", mtpx::cat(size_text(plan.peak), ", ", plan.peak, " bytes"));
  if (!needs.on_host)
    line("memory of the GPU", mtpx::cat(size_text(needs.device_bytes()), "; ", free_text(needs.device_free)));
  line("memory of the host",
       mtpx::cat(size_text(needs.host_bytes()), needs.on_host ? " with what tensors leave unused" : "",
                 needs.copy > 0 ? mtpx::cat(" and ", size_text(needs.copy), " that a checkpoint is copied to")
                                : std::string(),
                 "; ", free_text(needs.host_free)));
  line("peak of the process", mtpx::cat(size_text(needs.process + needs.host_bytes()), ", ",
                                        needs.process + needs.host_bytes(), " bytes"));
  line("disk",
       mtpx::cat(size_text(needs.disk_bytes()), " in ", o.out, ": a checkpoint takes ",
                 size_text(needs.checkpoint), ", of which at most ", needs.checkpoints,
                 " are there at once, the model ", size_text(needs.model), "; ", free_text(needs.disk_free)));
  return text;
}

void require_room(const TrainNeeds& needs, const TrainFlags& o) {
  const mtpx::TrainingPlan& plan = needs.plan;
  const auto refuse = [&](const char* whose, std::size_t bytes, std::size_t free, std::size_t copy) {
    std::string advice = mtpx::cat(
        "the model does not fit, whatever a step takes: take a smaller --config or "
        "--preset, or a lower --depth",
        o.device.dtype == "float32" ? ", or --dtype bf16" : "");
    if (copy > 0 && bytes - copy <= free) {
      advice = "--save-every 0 needs no copy for checkpoints";
    } else if (plan.state() < free) {
      advice = mtpx::cat("lower --batch (--accumulation makes up for it) or --seq",
                         o.activation_checkpointing ? "" : ", or take --checkpoint-activations");
    }
    throw mtpx::OutOfMemory(
        mtpx::cat("[train] the run takes ", size_text(bytes), " of the ", whose, "'s memory, and ",
                  size_text(free), " are free: ", parts_text(plan),
                  copy > 0 ? ", the copy for a checkpoint " + size_text(copy) : std::string(), "; ", advice));
  };
  if (needs.device_free && needs.device_bytes() > *needs.device_free)
    refuse("GPU", needs.device_bytes(), *needs.device_free, 0);
  if (needs.host_free && needs.host_bytes() > *needs.host_free)
    refuse("host", needs.host_bytes(), *needs.host_free, needs.copy);
  if (needs.disk_free && needs.disk_bytes() > *needs.disk_free)
    throw OutputError(mtpx::cat(
        "[train] --out ", o.out, ": the run takes ", size_text(needs.disk_bytes()), " there, and ",
        size_text(*needs.disk_free), " are free: a checkpoint ", size_text(needs.checkpoint),
        ", of which at most ", needs.checkpoints, " are there at once, the model ", size_text(needs.model),
        "; lower --keep-last, raise --save-every or --keep-every, or choose another --out"));
}

}  // namespace program
