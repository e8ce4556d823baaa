#pragma once
// What a training takes of memory and disk, before its first step.

#include "room.hpp"
#include "train.hpp"

#include <mtpx/core/meta.hpp>
#include <mtpx/train/plan.hpp>

#include <cstddef>
#include <optional>
#include <string>

namespace program {

/// What a run takes, and what there is.
struct TrainNeeds {
  mtpx::TrainingPlan plan;      ///< of the tensors
  std::size_t checkpoint = 0;   ///< bytes of one on the disk
  std::size_t model = 0;        ///< bytes of the model's files
  std::size_t copy = 0;         ///< host memory that checkpoints are copied to; 0: no step saves
  std::size_t together = 0;     ///< host memory in which a model in parts is put together
  mtpx::Index checkpoints = 0;  ///< that the disk holds at once, at most
  std::size_t disk_held = 0;    ///< of those, by checkpoints that are there
  bool on_host = true;          ///< tensors are in the host's memory
  std::size_t process = 0;      ///< the host's memory that the process has already: text, ids, the program
  std::optional<std::size_t> device_free, host_free, disk_free;

  /// Of the device's memory, where that is not the host's.
  std::size_t device_bytes() const { return on_host ? 0 : plan.peak; }
  /// Of the host's: tensors, copies, and the largest tensor again, which a file is written from.
  std::size_t host_bytes() const { return (on_host ? plan.reserved : 0) + copy + together + plan.largest; }
  /// Of the disk: checkpoints, the one that is being written included, and the model beside a former one.
  std::size_t disk_bytes() const;
};

/// The files that a model's and an optimiser's tensors make, in bytes.
template <typename Each>
std::size_t file_bytes(const Each& each) {
  constexpr std::size_t of_tensor = 86;  // dtype, shape, place and checksum in the header, about
  std::size_t sum = 0;
  each([&](const std::string& name, const auto& tensor) { sum += tensor.bytes() + name.size() + of_tensor; });
  return sum;
}

/// Plans what one stage of a pipeline takes of the run, or a rank with a part of the experts, on one of so
/// many copies. The first has the whole model in its host's memory where it writes it, and beside its own
/// where it writes a sample or a sidecar.
template <typename T, typename D>
TrainNeeds needs_of_stage(const D& planned, const TrainFlags& o, const TrainInput& in,
                          const mtpx::Layout& layout, mtpx::Index stage, int copies) {
  TrainNeeds needs;
  needs.plan = mtpx::plan_stage<T>(
      planned, in.source.config, o.train, in.source_of_batches(), layout, stage, copies,
      [&](auto& trained) { o.set_switches(trained); }, o.share_experts);
  const mtpx::Transformer<T, mtpx::Meta> whole(mtpx::Meta(), in.source.config);
  const std::size_t texts = in.tokenizer_files.tokenizer.size() + in.tokenizer_files.settings.size();
  needs.model = texts + file_bytes([&](const auto& visit) { for_each_tensor(whole, visit); });
  needs.checkpoint = needs.model;
  for_each_tensor(whole, [&](const std::string&, const auto& tensor) {
    using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
    using A = mtpx::acc_t<N>;
    const std::size_t states = std::is_same_v<N, A> ? 2 : 3;
    needs.checkpoint += states * static_cast<std::size_t>(tensor.size()) * sizeof(A);
  });
  if (stage == 0) {
    const std::size_t beside = o.prompt.empty() && !o.sidecar ? 0 : needs.model;
    needs.plan.peak += beside;
    needs.plan.reserved += beside;
    needs.plan.saved = needs.checkpoint;
    needs.together = needs.model;
  }
  needs.on_host = mtpx::HostMemory<D>;
  return needs;
}

/// Plans what one of `ranks` takes of the run; planned: the device, which plans; from_checkpoint: whether it
/// goes on from one. Throws what the planned steps throw.
template <typename T, typename D>
TrainNeeds needs_of(const D& planned, const TrainFlags& o, const TrainInput& in, bool from_checkpoint,
                    int ranks) {
  TrainNeeds needs;
  std::size_t model = 0, optimizer = 0;
  needs.plan = mtpx::plan_training<T>(
      planned, in.source.config, o.train, in.source_of_batches(), in.windows,
      [&](auto& trained) { o.set_switches(trained); },
      [&](auto& trained, auto& trainer) {
        model = file_bytes([&](const auto& visit) { for_each_tensor(trained, visit); });
        optimizer =
            file_bytes([&](const auto& visit) { trainer.optimizer().for_each_state(trained, visit); });
      },
      ranks);
  if (!o.init.folder.empty() && !from_checkpoint) {
    const mtpx::Config given = o.init.config().config;
    if (given != in.source.config) {  // both models are there for a moment
      const mtpx::Transformer<T, D> former(planned, given);
      needs.plan.peak = std::max(needs.plan.peak, planned.pool().bytes_in_use() + needs.plan.weights);
    }
  }
  std::size_t texts = in.tokenizer_files.tokenizer.size();
  for (const auto& [name, text] : mtpx::detail::side_files) texts += (in.tokenizer_files.*text).size();
  needs.model = model + texts;
  needs.checkpoint = model + optimizer + texts;
  needs.on_host = mtpx::HostMemory<D>;
  return needs;
}

/// Completes what a plan says by how often the run saves, and by what is free.   done: steps before it
void add_room(TrainNeeds& needs, const TrainFlags& o, mtpx::Index done,
              std::optional<std::size_t> device_free);

/// The figures, a line each.
std::string needs_text(const TrainNeeds& needs, const TrainFlags& o);

/// Throws OutOfMemory or OutputError, with figures and the flags to lower, where the run cannot fit.
void require_room(const TrainNeeds& needs, const TrainFlags& o);

}  // namespace program
