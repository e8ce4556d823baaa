#pragma once

#include "core/parallel.hpp"
#include "core/simd.hpp"

#include "../shapes.hpp"

namespace mtpx {

namespace cpu {

/// The `count` largest of values[0 .. n) in descending order, the lowest index first among equals. NaN
/// counts as -inf. `taken` [n] marks what is out of the race and, at the end, what was chosen.
template <typename A>
void top_indices(Index n, const A* values, Index count, unsigned char* taken, std::int32_t* chosen) {
  for (Index k = 0; k < count; ++k) {
    Index best = -1;
    for (Index i = 0; i < n; ++i) {
      if (taken[i] != 0) continue;
      if (best < 0 || values[i] > values[best] || (std::isnan(values[best]) && !std::isnan(values[i])))
        best = i;
    }
    taken[best] = 1;
    chosen[k] = static_cast<std::int32_t>(best);
  }
}

/// The choice of routers in perfect balance, where work is planned: what experts take depends on their rows.
inline void spread_evenly(Index slots, Index experts, std::int32_t* ids) {
  for (Index i = 0; i < slots; ++i) ids[i] = static_cast<std::int32_t>(i % experts);
}

}  // namespace cpu

/// Chooses top_k experts by score + bias, inside the topk_group groups whose two best such sums add up to
/// most, or whose best is largest (see Routing); the others count as -inf. Weights come from the unbiased
/// scores.
///   scores: [N, E]   bias: [E], or null   ids: [N, K] by descending score + bias   weights: [N, K]
template <typename A>
void route_forward(const Cpu& cpu, Index tokens, Routing r, const A* scores, const A* bias, std::int32_t* ids,
                   A* weights) {
  if (cpu.planned()) return cpu::spread_evenly(tokens * r.top_k, r.n_experts, ids);
  const Index group_size = r.n_experts / r.n_group;
  cpu::parallel_chunks(cpu, tokens, 8 * r.n_experts, [&](Index begin, Index end) {
    A* const pick = cpu::scratch<A>(r.n_experts + r.n_group, 2);                // [E]
    A* const group = pick + r.n_experts;                                        // [groups]
    auto* const groups = cpu::scratch<std::int32_t>(r.topk_group, 2);           // [chosen groups]
    auto* const out = cpu::scratch<unsigned char>(r.n_experts + r.n_group, 2);  // [E]
    auto* const kept = out + r.n_experts;                                       // [groups]
    for (Index t = begin; t < end; ++t) {
      const A* s = scores + t * r.n_experts;  // [E]
      for (Index e = 0; e < r.n_experts; ++e) pick[e] = bias != nullptr ? s[e] + bias[e] : s[e];
      std::fill_n(out, r.n_experts, 0);
      if (r.topk_group < r.n_group) {
        for (Index g = 0; g < r.n_group; ++g) {
          A first = -std::numeric_limits<A>::infinity();
          A second = first;
          for (Index e = g * group_size; e < (g + 1) * group_size; ++e) {
            const A value = pick[e];
            if (value > first) {
              second = first;
              first = value;
            } else if (value > second) {
              second = value;
            }
          }
          group[g] = r.adds_two(group_size) ? first + second : first;
        }
        std::fill_n(kept, r.n_group, 0);
        cpu::top_indices(r.n_group, group, r.topk_group, kept, groups);
        for (Index e = 0; e < r.n_experts; ++e) out[e] = kept[e / group_size] == 0;
      }
      cpu::top_indices(r.n_experts, pick, r.top_k, out, ids + t * r.top_k);
      A total(0);
      for (Index k = 0; k < r.top_k; ++k) total += s[ids[t * r.top_k + k]];
      const A factor = static_cast<A>(r.scaling_factor) / (r.norm_topk_prob ? total + A(1e-20) : A(1));
      for (Index k = 0; k < r.top_k; ++k) weights[t * r.top_k + k] = s[ids[t * r.top_k + k]] * factor;
    }
  });
}

/// With w_k = c s_k / S, S = sum of the chosen scores:  ds_k = (c dw_k - sum_j dw_j w_j) / S.  Without the
/// normalisation: ds_k = c dw_k. All other scores have no gradient.
template <typename A>
void route_backward(const Cpu& cpu, Index tokens, Routing r, const A* scores, const std::int32_t* ids,
                    const A* weights, const A* dweights, Sink<A> dscores) {
  if (!dscores) return;
  const A scale = static_cast<A>(r.scaling_factor);
  cpu::parallel_chunks(cpu, tokens, 4 * r.n_experts, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      A* ds = dscores.data + t * r.n_experts;  // [E]
      if (!dscores.accumulate) std::fill_n(ds, r.n_experts, A(0));
      A total(0);
      A dot(0);
      for (Index k = 0; k < r.top_k; ++k) {
        total += scores[t * r.n_experts + ids[t * r.top_k + k]];
        dot = exact::fma(dweights[t * r.top_k + k], weights[t * r.top_k + k], dot);
      }
      for (Index k = 0; k < r.top_k; ++k) {
        const A dw = exact::product(scale, dweights[t * r.top_k + k]);
        ds[ids[t * r.top_k + k]] += r.norm_topk_prob ? (dw - dot) / (total + A(1e-20)) : dw;
      }
    }
  });
}

/// The sequence-wise balance loss (DeepSeek-V3 Eq. 17-20), averaged over the batch:
///   f_i = N / (K T) #{t : s_it among the K largest of s_t},  P_i = mean_t s_it / sum_j s_jt,
///   loss = alpha / B sum_b sum_i f_i P_i
/// scores: [B * T, E]   loss: [1]   f: [B, E], for backward
template <typename A>
void balance_forward(const Cpu& cpu, Index batch, Index time, Index experts, Index top_k, A alpha,
                     const A* scores, A* loss, A* f) {
  if (batch * time == 0) {
    *loss = A(0);
    return;
  }
  const Buffer buffer(cpu.pool(), static_cast<std::size_t>(batch * experts) * sizeof(A));
  A* const fp = static_cast<A*>(buffer.data());  // [batch, E]
  const Index group = balance_tokens, chunk = group * balance_warps(experts);
  cpu::parallel_for(cpu, batch, [&](Index b) {
    A* const sums = cpu::scratch<A>((2 + balance_parts) * experts, 2);
    A* const of_group = sums + experts;                           // [E]
    A* const parts = of_group + experts;                          // [balance_parts, E]
    auto* const chosen = cpu::scratch<std::int32_t>(top_k, 2);    // [K]
    auto* const taken = cpu::scratch<unsigned char>(experts, 2);  // [E]
    A* fb = f + b * experts;                                      // [E]
    std::fill_n(fb, experts, A(0));
    std::fill_n(parts, balance_parts * experts, A(0));
    for (Index t = 0; t < time; ++t) {
      const A* s = scores + (b * time + t) * experts;  // [E]
      cpu::RowSum<A> row;
      for (Index e = 0; e < experts; e += cpu::lanes<A>) row.add(e, cpu::load_up_to(s + e, experts - e));
      const A total = row.total();
      if (t % chunk == 0) std::fill_n(sums, experts, A(0));
      if (t % group == 0) std::fill_n(of_group, experts, A(0));
      for (Index e = 0; e < experts; ++e) of_group[e] += s[e] / total;
      const bool last = t + 1 == time;
      if ((t + 1) % group == 0 || last) {
        for (Index e = 0; e < experts; ++e) sums[e] += of_group[e];
      }
      if ((t + 1) % chunk == 0 || last) {
        A* const part = parts + t / chunk % balance_parts * experts;  // [E]
        for (Index e = 0; e < experts; ++e) part[e] += sums[e];
      }
      std::fill_n(taken, experts, 0);
      cpu::top_indices(experts, s, top_k, taken, chosen);
      for (Index k = 0; k < top_k; ++k) fb[chosen[k]] += A(1);
    }
    for (Index e = 0; e < experts; ++e) {
      A share = parts[e];
      for (Index i = 1; i < balance_parts; ++i) share += parts[i * experts + e];
      fb[e] *= static_cast<A>(experts) / (static_cast<A>(top_k) * static_cast<A>(time));
      fp[b * experts + e] = fb[e] * (share * (A(1) / static_cast<A>(time)));
    }
  });
  A all[balance_threads] = {};
  for (Index i = 0; i < batch * experts; ++i) all[i % balance_threads] += fp[i];
  *loss = alpha / static_cast<A>(batch) * cpu::sum_of_block<balance_threads>(all);
}

/// ds_it = alpha / (B T) dloss (f_i - sum_j f_j s_jt / S_t) / S_t,  S_t = sum_j s_jt.  f is a constant.
template <typename A>
void balance_backward(const Cpu& cpu, Index batch, Index time, Index experts, A alpha, const A* scores,
                      const A* f, const A* dloss, Sink<A> dscores) {
  if (!dscores) return;
  const A factor = alpha / static_cast<A>(batch * time) * *dloss;
  cpu::parallel_chunks(cpu, batch * time, 4 * experts, [&](Index begin, Index end) {
    for (Index row = begin; row < end; ++row) {
      const A* s = scores + row * experts;     // [E]
      const A* fb = f + row / time * experts;  // [E]
      A* ds = dscores.data + row * experts;    // [E]
      cpu::RowSum<A> sums, dots;
      for (Index e = 0; e < experts; e += cpu::lanes<A>) {
        const cpu::Vec<A> se = cpu::load_up_to(s + e, experts - e);
        sums.add(e, se);
        dots.add_product(e, cpu::load_up_to(fb + e, experts - e), se);
      }
      const A total = sums.total(), dot = dots.total();
      for (Index e = 0; e < experts; ++e) {
        const A d = factor * (fb[e] - dot / total) / total;
        ds[e] = dscores.accumulate ? ds[e] + d : d;
      }
    }
  });
}

/// Aux-loss-free balancing (DeepSeek-V3 sec. 2.1.2): b_i += speed * sign(mean load - load_i); the load is
/// then forgotten. Overloaded experts become less attractive, balanced ones (difference 0) stay. `scale`:
/// null, or that of clip_scale(); where it is NaN, the step was not taken and no bias moves.
template <typename A>
void update_bias(const Cpu&, Index experts, A speed, const double* scale, A* load, A* bias) {
  if (scale != nullptr && std::isnan(*scale)) speed = A(0);
  A mean(0);
  for (Index e = 0; e < experts; ++e) mean += load[e];
  mean /= static_cast<A>(experts);
  for (Index e = 0; e < experts; ++e) {
    const A gap = mean - load[e];
    bias[e] += speed * static_cast<A>((gap > A(0)) - (gap < A(0)));
    load[e] = A(0);
  }
}

}  // namespace mtpx
