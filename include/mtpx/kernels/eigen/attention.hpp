#pragma once

#include "views.hpp"

#include <algorithm>

namespace mtpx {

namespace eigen {

/// Head h of sequence b (DeepSeek-V3 Eq. 4, 9, 10): its queries, keys and values, and how much each query
/// takes of each value, P = softmax(scale Q K^T) over the keys that it sees.
template <typename T>
struct Head {
  Matrix<T> Q, K, V;                       // [N, nope + rope], [T, nope + rope], [T, v]; N = T - before
  Matrix<T> P;                             // [N, T]
  Eigen::Array<T, Eigen::Dynamic, 1> lse;  // [N]

  /// q, kv, k_rope: as attention_forward() has them   positions: [B, T] or null
  Head(AttentionShape s, Index b, Index h, const T* q, const T* kv, const T* k_rope,
       const std::int32_t* positions, T scale)
      : K(s.time, s.nope + s.rope) {
    const Index first = b * s.time, width = s.nope + s.rope, both = s.nope + s.v;
    const auto KV = matrix(kv + first * s.heads * both, s.time, s.heads * both).middleCols(h * both, both);
    const Index N = s.queries();
    Q = matrix(q + b * N * s.heads * width, N, s.heads * width).middleCols(h * width, width);
    K << KV.leftCols(s.nope), matrix(k_rope + first * s.rope, s.time, s.rope);
    V = KV.rightCols(s.v);

    P = Q * K.transpose();
    Array<T> scores = scale * P;
    for (Index i = 0; i < N; ++i) {
      const Index from = positions == nullptr ? 0 : std::max<Index>(0, i - positions[first + i]);
      scores.row(i).head(from) = -std::numeric_limits<T>::infinity();
      scores.row(i).tail(N - 1 - i) = -std::numeric_limits<T>::infinity();
    }
    lse = softmax(scores);
    P = scores;
  }
};

}  // namespace eigen

/// o_i = sum_j P_ij v_j (DeepSeek-V3 Eq. 10), head by head.
///   q: [B * T, H (nope + rope)]   kv: [B * T, H (nope + v)]   k_rope: [B * T, rope]   o: [B * T, H v]
///   lse: [B, H, T] = log sum_j e^score_ij
/// With s.before, q, o and lse have T - before rows, the last ones.
template <typename T>
void attention_forward(const Reference&, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                       const std::int32_t* positions, T scale, T* o, T* lse) {
  const Index N = s.queries();
  eigen::Matrix<T> O(s.batch * N, s.heads * s.v);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const eigen::Head<T> head(s, b, h, q, kv, k_rope, positions, scale);
      const eigen::Matrix<T> of_head = head.P * head.V;
      O.block(b * N, h * s.v, N, s.v) = of_head;
      eigen::put(lse + (b * s.heads + h) * N, head.lse);
    }
  }
  eigen::put(o, O);
}

/// dV = P^T dO,   dP = dO V^T,   dS_ij = P_ij (dP_ij - sum_k P_ik dP_ik) scale,   dQ = dS K,   dK = dS^T Q;
/// the rotated part of the keys belongs to all heads.
template <typename T>
void attention_backward(const Reference&, AttentionShape s, const T* q, const T* kv, const T* k_rope,
                        const std::int32_t* positions, T scale, const T*, const T*, const T* d_o, Sink<T> dq,
                        Sink<T> dkv, Sink<T> dk_rope) {
  const Index rows = s.batch * s.time, width = s.nope + s.rope, both = s.nope + s.v;
  eigen::Matrix<T> dQ(rows, s.heads * width), dKV(rows, s.heads * both);
  eigen::Matrix<T> dK_rope = eigen::Matrix<T>::Zero(rows, s.rope);
  for (Index b = 0; b < s.batch; ++b) {
    const Index first = b * s.time;
    for (Index h = 0; h < s.heads; ++h) {
      const eigen::Head<T> head(s, b, h, q, kv, k_rope, positions, scale);
      const eigen::Matrix<T> dO = eigen::matrix(d_o, rows, s.heads * s.v).block(first, h * s.v, s.time, s.v);
      const eigen::Matrix<T> dV = head.P.transpose() * dO, dP = dO * head.V.transpose();
      const eigen::Array<T> P_dP = head.P.array() * dP.array();
      const eigen::Matrix<T> dS = scale * (P_dP - head.P.array().colwise() * P_dP.rowwise().sum());
      const eigen::Matrix<T> of_head = dS * head.K, dK = dS.transpose() * head.Q;
      dQ.block(first, h * width, s.time, width) = of_head;
      dKV.block(first, h * both, s.time, both) << dK.leftCols(s.nope), dV;
      dK_rope.middleRows(first, s.time) += dK.rightCols(s.rope);
    }
  }
  eigen::put(dq, dQ);
  eigen::put(dkv, dKV);
  eigen::put(dk_rope, dK_rope);
}

}  // namespace mtpx
