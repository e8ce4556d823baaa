#pragma once

#include "views.hpp"

#include <algorithm>
#include <numeric>

namespace mtpx {

namespace eigen {

using Indices = std::vector<Index>;

/// begin, begin + 1, .., begin + count - 1
inline Indices from(Index begin, Index count) {
  Indices all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), begin);
  return all;
}

/// Topk: those `count` of some indices whose values are largest, in descending order, the first of equal ones
/// first. NaN counts as -inf.
template <typename V>
Indices largest(Indices of, Index count, const V& values) {
  const auto value = [&](Index i) {
    const auto v = values(i);
    return std::isnan(v) ? -std::numeric_limits<typename V::Scalar>::infinity() : v;
  };
  std::stable_sort(of.begin(), of.end(), [&](Index a, Index b) { return value(a) > value(b); });
  of.resize(static_cast<std::size_t>(count));
  return of;
}

}  // namespace eigen

/// The experts of every token: the K largest s_i + b_i (DeepSeek-V3 Eq. 16) in the groups whose two largest
/// add up to most (sec. 2.1.2, "node-limited routing") or, without a bias, the K largest s_i (DeepSeek-V2 Eq.
/// 21) in those whose largest is (sec. 2.2.2, "device-limited routing"); their weights, from s alone (Eq. 13,
/// 14):
///
///   g_i = scaling_factor s_i / sum of the chosen s_j
///
/// scores: [N, E]   bias: [E], or null   ids, weights: [N, K], by descending s_i + b_i
template <typename T>
void route_forward(const Reference&, Index tokens, Routing r, const T* scores, const T* bias,
                   std::int32_t* ids, T* weights) {
  const Index size = r.n_experts / r.n_group;
  for (Index t = 0; t < tokens; ++t) {
    const auto s = eigen::row(scores + t * r.n_experts, r.n_experts);
    eigen::RowArray<T> biased = s;
    if (bias != nullptr) biased += eigen::row(bias, r.n_experts);
    eigen::RowArray<T> worth(r.n_group);
    for (Index g = 0; g < r.n_group; ++g)
      worth(g) = biased(eigen::largest(eigen::from(g * size, size), r.adds_two(size) ? 2 : 1, biased)).sum();
    eigen::Indices groups = eigen::largest(eigen::from(0, r.n_group), r.topk_group, worth), open;
    std::sort(groups.begin(), groups.end());  // equal experts: the first one, whatever its group is worth
    for (const Index g : groups) {
      const eigen::Indices members = eigen::from(g * size, size);
      open.insert(open.end(), members.begin(), members.end());
    }
    const eigen::Indices chosen = eigen::largest(open, r.top_k, biased);
    const T total = r.norm_topk_prob ? s(chosen).sum() + T(1e-20) : T(1);
    eigen::row(weights + t * r.top_k, r.top_k) = static_cast<T>(r.scaling_factor) * s(chosen) / total;
    std::transform(chosen.begin(), chosen.end(), ids + t * r.top_k,
                   [](Index e) { return static_cast<std::int32_t>(e); });
  }
}

/// With S the sum of the chosen scores and c the scaling factor:  ds_i = (c dg_i - sum_j dg_j g_j) / S;
/// without the division by S in Eq. 13:  ds_i = c dg_i. The others have none.
template <typename T>
void route_backward(const Reference&, Index tokens, Routing r, const T* scores, const std::int32_t* ids,
                    const T* weights, const T* dweights, Sink<T> dscores) {
  eigen::Array<T> dS = eigen::Array<T>::Zero(tokens, r.n_experts);
  for (Index t = 0; t < tokens; ++t) {
    const auto chosen = eigen::row(ids + t * r.top_k, r.top_k);
    const auto g = eigen::row(weights + t * r.top_k, r.top_k),
               dg = eigen::row(dweights + t * r.top_k, r.top_k);
    eigen::RowArray<T> d = static_cast<T>(r.scaling_factor) * dg;
    if (r.norm_topk_prob) {
      const T total = eigen::row(scores + t * r.n_experts, r.n_experts)(chosen).sum();
      d = (d - (dg * g).sum()) / (total + T(1e-20));
    }
    dS.row(t)(chosen) = d;
  }
  eigen::put(dscores, dS);
}

/// The sequence-wise balance loss (DeepSeek-V3 Eq. 17-20), averaged over the sequences:
///
///   alpha sum_i f_i P_i,   f_i = E / (K T) #{t : s_it among the K largest of s_t},   P_i = mean_t s_it /
///   sum_j s_jt
///
/// scores: [B * T, E]   loss: [1]   f: [B, E], for backward
template <typename T>
void balance_forward(const Reference&, Index batch, Index time, Index experts, Index top_k, T alpha,
                     const T* scores, T* loss, T* f) {
  *loss = T(0);
  if (time == 0) return;
  for (Index b = 0; b < batch; ++b) {
    const auto S = eigen::array(scores + b * time * experts, time, experts);
    auto F = eigen::row(f + b * experts, experts);
    F.setZero();
    for (Index t = 0; t < time; ++t) F(eigen::largest(eigen::from(0, experts), top_k, S.row(t))) += T(1);
    F *= static_cast<T>(experts) / static_cast<T>(top_k * time);
    const eigen::RowArray<T> P = (S.colwise() / S.rowwise().sum()).colwise().mean();
    *loss += alpha * (F * P).sum() / static_cast<T>(batch);
  }
}

/// With S_t = sum_j s_jt:  ds_it = alpha / (B T) dloss (f_i - sum_j f_j s_jt / S_t) / S_t.  f is a constant.
template <typename T>
void balance_backward(const Reference&, Index batch, Index time, Index experts, T alpha, const T* scores,
                      const T* f, const T* dloss, Sink<T> dscores) {
  eigen::Array<T> dS(batch * time, experts);
  for (Index row = 0; row < batch * time; ++row) {
    const auto s = eigen::row(scores + row * experts, experts),
               F = eigen::row(f + row / time * experts, experts);
    dS.row(row) = (F - (F * s).sum() / s.sum()) / s.sum();
  }
  eigen::put(dscores, alpha / static_cast<T>(batch * time) * *dloss * dS);
}

/// b_i += speed sign(mean load - load_i) (DeepSeek-V3 sec. 2.1.2, "auxiliary-loss-free load balancing"); the
/// load is forgotten. No bias moves where `scale`, unless null, is NaN: the step was not taken.
template <typename T>
void update_bias(const Reference&, Index experts, T speed, const double* scale, T* load, T* bias) {
  auto L = eigen::row(load, experts);
  if (scale == nullptr || !std::isnan(*scale)) eigen::row(bias, experts) += speed * (L.mean() - L).sign();
  L.setZero();
}

}  // namespace mtpx
