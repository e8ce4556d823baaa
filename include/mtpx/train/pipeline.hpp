#pragma once
// The schedule of a pipeline as data, and what it leads to, before anything runs.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mtpx {

/// One thing that a stage does with a micro-batch.
///
/// Transfers that stand side by side are one group: they are under way at once, and the stage goes on when
/// all of them are done. A lone send would keep a GPU waiting for a peer that is about to send, too.
struct Action {
  /// What it is.
  enum class Kind {
    forward,           ///< the slice's forward, on a tape of its own
    backward,          ///< that tape's backward, which adds to the gradients
    send_state,        ///< what the slice made, to the next stage
    receive_state,     ///< what the slice before made
    send_gradient,     ///< of what was received
    receive_gradient,  ///< of what was sent
  };

  Kind kind = Kind::forward;  ///< what it is
  Index micro = 0;            ///< which micro-batch's
  Index peer = -1;            ///< the stage at the other end; -1: none

  /// Whether something goes to or comes from another stage.
  bool transfers() const { return kind != Kind::forward && kind != Kind::backward; }
  /// Whether it goes.
  bool sends() const { return kind == Kind::send_state || kind == Kind::send_gradient; }

  bool operator==(const Action&) const = default;
};

/// "forward 3", "send_state 3 to stage 2".
inline std::string to_text(const Action& action) {
  constexpr const char* names[] = {"forward",       "backward",      "send_state",
                                   "receive_state", "send_gradient", "receive_gradient"};
  std::string text = cat(names[static_cast<int>(action.kind)], ' ', action.micro);
  if (action.transfers()) text += cat(action.sends() ? " to stage " : " from stage ", action.peer);
  return text;
}

/// What stage `stage` of `stages` does with `micros` micro-batches, one forward and one backward in turns
/// (1F1B: Narayanan et al. 2021, arXiv 2104.04473, sec. 2.2.1; PipeDream-flush).
///
///   w = min(stages - stage - 1, micros) forwards,   then forward w + i, backward i in turns,   then w
///   backwards
///
/// So min(stages - stage, micros) tapes live at most, and backwards, which add to the gradients, come in the
/// order of the micro-batches in every stage.
inline std::vector<Action> one_f_one_b(Index stage, Index stages, Index micros) {
  using Kind = Action::Kind;
  std::vector<Action> all;
  const auto receive_state = [&](Index micro) {
    if (stage > 0) all.push_back({Kind::receive_state, micro, stage - 1});
  };
  const auto forward = [&](Index micro) {
    all.push_back({Kind::forward, micro, -1});
    if (stage + 1 < stages) all.push_back({Kind::send_state, micro, stage + 1});
  };
  const auto backward = [&](Index micro) {
    if (stage + 1 < stages) all.push_back({Kind::receive_gradient, micro, stage + 1});
    all.push_back({Kind::backward, micro, -1});
    if (stage > 0) all.push_back({Kind::send_gradient, micro, stage - 1});
  };
  const Index warmup = std::min(stages - stage - 1, micros);
  for (Index micro = 0; micro < micros + warmup; ++micro) {
    if (micro < micros) {
      receive_state(micro);
      forward(micro);
    }
    if (micro >= warmup) backward(micro - warmup);
  }
  return all;
}

/// What becomes of a schedule that all stages follow at once.
struct SimulatedPipeline {
  std::string stuck;         ///< where it stays for ever or does what cannot be; empty: it comes to its end
  std::vector<Index> tapes;  ///< of each stage: how many live at most
  std::vector<double> busy;  ///< of each stage: the time of its forwards and backwards
  double time = 0;           ///< when the last stage is done

  /// The share of all stages' time in which they compute.
  double efficiency() const {
    double sum = 0;
    for (const double one : busy) sum += one;
    return time > 0 ? sum / (time * static_cast<double>(busy.size())) : 0;
  }
};

/// How long a stage's forward and backward of one micro-batch take.
struct StageTime {
  double forward = 1;   ///< in any unit
  double backward = 2;  ///< in the same
};

namespace detail {

/// Runs stages' lists side by side. Transfers are the hardest there are: a send is done when its peer takes
/// it, so nothing waits on the way, and only the first of what two stages send each other can be taken.
class PipelineSimulator {
 public:
  PipelineSimulator(std::span<const std::vector<Action>> stages, std::span<const StageTime> times)
      : lists_(stages), times_(times), stages_(stages.size()) {
    result_.tapes.resize(stages.size());
    result_.busy.resize(stages.size());
  }

  SimulatedPipeline run() {
    for (std::size_t s = 0; s < stages_.size(); ++s) compute(s);
    for (bool moved = true; moved && result_.stuck.empty();) {
      moved = false;
      for (std::size_t s = 0; s < stages_.size() && result_.stuck.empty(); ++s) moved |= exchange(s);
    }
    for (std::size_t s = 0; s < stages_.size(); ++s) {
      const Stage& stage = stages_[s];
      result_.time = std::max(result_.time, stage.now);
      if (!result_.stuck.empty()) continue;
      if (stage.next < lists_[s].size()) {
        for (std::size_t i = stage.next; i < stage.group_end; ++i) {
          if (!stage.done[i - stage.next])
            return fail(s, cat("waits for ever in ", to_text(lists_[s][i]))), result_;
        }
      } else if (!stage.live.empty()) {
        fail(s, cat("never takes micro-batch ", stage.live.front(), " back"));
      }
    }
    return result_;
  }

 private:
  struct Stage {
    std::size_t next = 0, group_end = 0;   // the group of transfers that it waits in
    std::vector<char> done;                // which of them are
    double now = 0, ready = 0;             // when the group began; when all that is done of it was
    std::vector<Index> live;               // micro-batches with a tape
    std::vector<Index> states, gradients;  // received and not yet used
    std::vector<Index> made, given;        // states and gradients that it may send
  };

  void fail(std::size_t s, const std::string& what) {
    if (result_.stuck.empty()) result_.stuck = cat("stage ", s, ' ', what);
  }

  static bool take(std::vector<Index>& from, Index micro) {
    const auto found = std::find(from.begin(), from.end(), micro);
    if (found == from.end()) return false;
    from.erase(found);
    return true;
  }

  /// What comes before the next group of transfers, and which that is.
  void compute(std::size_t s) {
    Stage& stage = stages_[s];
    const std::vector<Action>& list = lists_[s];
    for (; stage.next < list.size() && !list[stage.next].transfers(); ++stage.next) {
      const Action& action = list[stage.next];
      const bool forward = action.kind == Action::Kind::forward;
      const double takes = forward ? times_[s].forward : times_[s].backward;
      stage.now += takes;
      result_.busy[s] += takes;
      if (forward) {
        if (s > 0 && !take(stage.states, action.micro)) fail(s, "has no state for " + to_text(action));
        stage.live.push_back(action.micro);
        stage.made.push_back(action.micro);
        result_.tapes[s] = std::max(result_.tapes[s], static_cast<Index>(stage.live.size()));
      } else {
        if (s + 1 < stages_.size() && !take(stage.gradients, action.micro))
          fail(s, "has no gradient for " + to_text(action));
        if (!take(stage.live, action.micro)) fail(s, "has no tape for " + to_text(action));
        stage.given.push_back(action.micro);
      }
    }
    stage.group_end = stage.next;
    while (stage.group_end < list.size() && list[stage.group_end].transfers()) ++stage.group_end;
    stage.done.assign(stage.group_end - stage.next, 0);
    stage.ready = stage.now;
  }

  /// The first transfer of the group that is not done and is to or from this peer, in that direction.
  const Action* open(const Stage& stage, std::size_t s, std::size_t peer, bool sends, std::size_t* at) const {
    for (std::size_t i = stage.next; i < stage.group_end; ++i) {
      const Action& action = lists_[s][i];
      if (stage.done[i - stage.next] || action.sends() != sends ||
          static_cast<std::size_t>(action.peer) != peer)
        continue;
      *at = i - stage.next;
      return &action;
    }
    return nullptr;
  }

  /// Sends of stage s that its peers wait for; and goes on where a group is done.
  bool exchange(std::size_t s) {
    bool moved = false;
    Stage& stage = stages_[s];
    for (std::size_t peer = 0; peer < stages_.size(); ++peer) {
      Stage& other = stages_[peer];
      std::size_t from = 0, to = 0;
      const Action* const sent = open(stage, s, peer, true, &from);
      const Action* const taken = sent ? open(other, peer, s, false, &to) : nullptr;
      if (!taken) continue;
      const bool state = sent->kind == Action::Kind::send_state;
      if (sent->micro != taken->micro || state != (taken->kind == Action::Kind::receive_state))
        return fail(s, cat("does ", to_text(*sent), ", which does ", to_text(*taken))), false;
      if (!take(state ? stage.made : stage.given, sent->micro))
        return fail(s, "has nothing for " + to_text(*sent)), false;
      (state ? other.states : other.gradients).push_back(sent->micro);
      stage.done[from] = other.done[to] = 1;
      const double when = std::max(stage.now, other.now);
      stage.ready = std::max(stage.ready, when);
      other.ready = std::max(other.ready, when);
      go_on(peer);
      moved = true;
    }
    if (moved) go_on(s);
    return moved;
  }

  void go_on(std::size_t s) {
    Stage& stage = stages_[s];
    if (std::find(stage.done.begin(), stage.done.end(), 0) != stage.done.end()) return;
    stage.now = stage.ready;
    stage.next = stage.group_end;
    compute(s);
  }

  std::span<const std::vector<Action>> lists_;
  std::span<const StageTime> times_;
  std::vector<Stage> stages_;
  SimulatedPipeline result_;
};

}  // namespace detail

/// Follows the lists of all stages at once: whether they come to their end, how many tapes live, and how long
/// it takes where transfers take no time. A transfer is done when both ends have come to it: what ends here
/// ends wherever messages are kept on their way, too.
///
/// stages: each stage's actions   times: each stage's
inline SimulatedPipeline simulate(std::span<const std::vector<Action>> stages,
                                  std::span<const StageTime> times) {
  if (times.size() != stages.size())
    throw Error(cat("[pipeline] ", times.size(), " times of ", stages.size(), " stages"));
  return detail::PipelineSimulator(stages, times).run();
}

/// The same of 1F1B.
inline SimulatedPipeline simulate_one_f_one_b(Index micros, std::span<const StageTime> times) {
  std::vector<std::vector<Action>> lists;
  const auto stages = static_cast<Index>(times.size());
  for (Index s = 0; s < stages; ++s) lists.push_back(one_f_one_b(s, stages, micros));
  return simulate(lists, times);
}

}  // namespace mtpx
