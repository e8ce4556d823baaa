#pragma once
// Validation by ranks that have parts of one model.

#include <mtpx/model/stage.hpp>
#include <mtpx/train/trainer.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

/// The batch with as many rows, copies of its first behind its own.
inline HostBatch with_rows(const HostBatch& batch, Index rows) {
  HostBatch all = batch;
  const auto width = static_cast<std::ptrdiff_t>(batch.seq + 1);
  for (; all.batch < rows; ++all.batch) {
    for (auto part : {&HostBatch::tokens, &HostBatch::positions, &HostBatch::counts}) {
      const std::vector<std::int32_t>& from = batch.*part;
      if (!from.empty()) (all.*part).insert((all.*part).end(), from.begin(), from.begin() + width);
    }
  }
  return all;
}

/// One batch forward through all stages; the last one returns its losses.
template <typename T, typename D>
MtpLoss<T, D> evaluation_pass(const Transformer<T, D>& part, const Batch<D>& batch, const Group<D>& stages) {
  StageState<T, D> before;
  std::vector<Transfer> transfers;
  if (!part.slice.embedding) {
    before = stage_state(part, batch.batch(), batch.time(), 0);
    before.for_each([&](const auto& tensor) {
      transfers.push_back(Transfer::receive(stages.rank() - 1, tensor.data(), tensor.bytes()));
    });
    stages.send_receive(transfers);
  }
  StagePass<T, D> pass(part, batch);
  pass.forward(before);
  if (part.slice.head) return pass.loss();
  transfers.clear();
  pass.made().for_each([&](const auto& tensor) {
    transfers.push_back(Transfer::send(stages.rank() + 1, tensor.data(), tensor.bytes()));
  });
  stages.send_receive(transfers);
  return {};
}

}  // namespace detail

/// evaluate() by ranks that have parts of one model: a stage of a pipeline, or a part of the experts, or all.
/// Nobody has more of it in memory. Copies of a pipeline share the windows. The figures are those of one rank
/// with the whole model, to the last digit where its passes have the same bits.
///
/// Where experts are shared out, all ranks take batches of one shape at the same time: one that has none
/// left, or fewer rows, fills up with rows that do not count.
///
/// stages, copies: of Grid   ranks: all of the run, on the host. Every rank makes the call and gets the
/// figures make_room(): whether experts had too little room, and have more now: a batch is then taken again
template <typename T, typename D, typename Windows, typename MakeRoom>
Evaluation evaluate(const Transformer<T, D>& part, const Windows& windows, bool mask_documents,
                    std::span<const std::int32_t> token_bytes, const Group<D>& stages, const Group<D>& copies,
                    const Group<Cpu>& ranks, const MakeRoom& make_room) {
  const bool shares_experts = part.slice.expert_parts > 1;
  const Index depth = part.config.num_nextn_predict_layers, count = windows.size();
  std::vector<double> own;
  for (Index begin = 0; begin < count; begin += copies.size()) {
    const Index i = begin + copies.rank();
    if (i >= count && !shares_experts) break;
    const HostBatch host = windows.at(std::min(i, count - 1));
    Index rows = host.batch;
    for (Index other = begin; shares_experts && other < std::min(count, begin + copies.size()); ++other)
      rows = std::max(rows, windows.at(other).batch);
    const Batch<D> batch = upload(part.device(), detail::with_rows(host, rows), mask_documents);
    MtpLoss<T, D> loss;
    do {
      loss = detail::evaluation_pass(part, batch, stages);
    } while (make_room());
    if (i >= count || !part.slice.head) continue;
    const std::vector<double> sums = detail::evaluation_sums(loss.depths, host, token_bytes, depth);
    own.insert(own.end(), sums.begin(), sums.end());
  }
  return detail::joined_evaluation(std::move(own), depth, count, ranks, stages.size());
}

/// The same by ranks that train together, behind reports(). Room that is made the next step has, too.
template <typename T, typename D, typename Windows>
Evaluation evaluate(Trainer<T, D>& trainer, const Transformer<T, D>& part, const Windows& windows,
                    bool mask_documents, std::span<const std::int32_t> token_bytes, const Group<Cpu>& ranks) {
  return evaluate(part, windows, mask_documents, token_bytes, trainer.stages(), trainer.group(), ranks,
                  [&] { return trainer.make_room(); });
}

}  // namespace mtpx
