#pragma once
// Twins of cpu/linear_distillation.hpp: what a student loses against its teacher, without ever holding [N, V]
// logits of either.

#include "../distillation.hpp"
#include "linear_cross_entropy.cuh"

namespace mtpx {

namespace cuda {

/// What the rows of a student and its teacher have, [N] each.
template <typename A>
struct TaughtRows {
  Divergence divergence;
  A share;
  const std::int32_t* labels;
  A *lse, *teacher_lse;
  A* slope;        // the sum of costs until they are the mean cost; then that of signs
  A* teacher_top;  // the teacher's running maximum; then the sum of |p - q|
  A* row_loss;     // of the label, until the last chunk

  TaughtRows behind(Index first) const {
    TaughtRows rows = *this;
    rows.labels += first;
    for (A** const numbers : {&rows.lse, &rows.teacher_lse, &rows.slope, &rows.teacher_top, &rows.row_loss})
      *numbers += first;
    return rows;
  }
  __device__ __forceinline__ TaughtRow<A> row(Index r) const {
    return {divergence, share, lse[r], teacher_lse[r]};
  }
  __device__ __forceinline__ void finish(Index r, A by_divergence) const {
    row_loss[r] = labels[r] < 0 ? A(0) : row(r).loss(by_divergence, row_loss[r]);
  }
};

/// One chunk of a student's and a teacher's logits [rows, width], merged into the teacher's running maximum,
/// sum and sum of costs, behind merge_logits() of the student's; the last chunk turns them into results. A
/// warp per row.
template <typename A>
__global__ void __launch_bounds__(logit_threads)
    merge_teacher(Index count, Index width, Index v, Index vocab, const A* student, const A* teacher,
                  Index stride, TaughtRows<A> rows) {
  const Index r = Index{blockIdx.x} * logit_warps + threadIdx.x / 32;
  if (r >= count) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const A *const z = student + r * stride, *const y = teacher + r * stride;
  A highest = -std::numeric_limits<A>::infinity();
#pragma unroll 4
  for (Index c = lane; c < width; c += 32) highest = y[c] > highest ? y[c] : highest;
  highest = warp_max(highest);
  const A before = v == 0 ? -std::numeric_limits<A>::infinity() : rows.teacher_top[r];
  highest = highest > before ? highest : before;
  A sum(0), costs(0);
#pragma unroll 4
  for (Index c = lane; c < width; c += 32) {
    const A e = exact::exp(y[c] - highest);
    sum += e;
    costs = exact::fma(e, TaughtRow<A>::cost(rows.divergence, z[c], y[c]), costs);
  }
  sum = warp_sum(sum);
  costs = warp_sum(costs);
  if (lane != 0) return;
  if (v > 0 && rows.teacher_lse[r] != A(0)) {
    const A shrink = exact::exp(before - highest);
    sum = exact::fma(rows.teacher_lse[r], shrink, sum);
    costs = exact::fma(rows.slope[r], shrink, costs);
  }
  const bool last = v + width == vocab;
  rows.teacher_top[r] = highest;
  rows.teacher_lse[r] = last ? highest + exact::log(sum) : sum;
  rows.slope[r] = last ? costs / sum : costs;
  if (last && rows.divergence != Divergence::total_variation)
    rows.finish(r, rows.row(r).divergence_by(rows.slope[r]));
}

/// Adds what a chunk has of sum_v |p_v - q_v| and of sum_v q_v sign(q_v - p_v). A warp per row.
template <typename A>
__global__ void __launch_bounds__(logit_threads)
    measure_variation(Index count, Index width, Index v, Index vocab, const A* student, const A* teacher,
                      Index stride, TaughtRows<A> rows) {
  const Index r = Index{blockIdx.x} * logit_warps + threadIdx.x / 32;
  if (r >= count) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const A *const z = student + r * stride, *const y = teacher + r * stride;
  const TaughtRow<A> row = rows.row(r);
  A apart(0), signs(0);
#pragma unroll 4
  for (Index c = lane; c < width; c += 32) {
    const A q = row.student_of(z[c]), p = row.teacher_of(y[c]);
    apart += q > p ? q - p : p - q;
    signs += row.signed_share(q, p);
  }
  apart = warp_sum(apart);
  signs = warp_sum(signs);
  if (lane != 0) return;
  if (v > 0) {
    apart = rows.teacher_top[r] + apart;
    signs = rows.slope[r] + signs;
  }
  rows.teacher_top[r] = apart;
  rows.slope[r] = signs;
  if (v + width == vocab) rows.finish(r, apart / 2);
}

/// dlogits of one chunk as TaughtRow::gradient() has them, times factor * dloss, in place of the student's
/// logits or rounded to another buffer with the same stride. A block per row.   saved: [3, count]
template <typename T>
__global__ void __launch_bounds__(logit_threads)
    differentiate_taught(Divergence divergence, acc_t<T> share, Index width, Index v, const acc_t<T>* student,
                         const acc_t<T>* teacher, Index stride, const std::int32_t* labels,
                         const acc_t<T>* saved, Index count, const acc_t<T>* factor, const acc_t<T>* dloss,
                         T* dlogits) {
  using A = acc_t<T>;
  const Index r = blockIdx.x;
  const A *const z = student + r * stride, *const y = teacher + r * stride;
  T* const d = dlogits + r * stride;
  const A weight = labels[r] < 0 ? A(0) : *factor * *dloss;
  const TaughtRow<A> row{divergence, share, saved[r], saved[count + r]};
  const A slope = saved[2 * count + r], of_label = row.of_label(weight);
  const Index label = labels[r] - v;
  for (Index c = threadIdx.x; c < width; c += logit_threads) {
    const A all = row.gradient(z[c], y[c], slope, weight);
    d[c] = narrow<T>(c == label ? all - of_label : all);
  }
}

/// The teacher's logits of rows `first` and tokens v on.
template <typename T>
void teacher_logits(const Cuda& device, const Teaching<T>& teaching, Index first, Index count, Index v,
                    Index columns, acc_t<T>* to, Index stride) {
  const Rows& r = teaching.rows;
  multiply(device, count, columns, r.width, row_major(teaching.x + first * r.stride, r.stride),
           transposed(teaching.w + v * r.width, r.width), to, stride, false);
}

}  // namespace cuda

/// What a student's rows lose against their teacher, without ever holding [N, V] logits of either: chunks of
/// rows and vocabulary; the total variation goes through the vocabulary twice.
///   x: [N, D] strided   w: [V, D]   labels: [N], below 0 = ignored   teaching: see there
///   saved: [3, N], for backward: lse, the teacher's, and sum_v q_v sign(q_v - p_v) of the total variation
///   row_loss: [N] = share * divergence + (1 - share) * (lse - logit[label]), 0 where ignored
///   argmax: [N], the student's, lowest index on ties
/// A label beyond the vocabulary makes its row_loss NaN.
template <typename T>
void linear_distillation_forward(const Cuda& device, const Teaching<T>& teaching, Rows rows, const T* x,
                                 Index vocab, const T* w, const std::int32_t* labels, acc_t<T>* saved,
                                 acc_t<T>* row_loss, std::int32_t* argmax) {
  using A = acc_t<T>;
  if (rows.count == 0) return;
  const Index chunk = std::min(loss_vocab, vocab), most = std::min(cuda::loss_rows, rows.count);
  const cuda::Workspace<A> student(device, most * chunk), teacher(device, most * chunk);
  const cuda::Workspace<A> top(device, rows.count), teacher_top(device, rows.count);
  const cuda::TaughtRows<A> all{
      teaching.divergence,    teaching.share,     labels,  saved, saved + rows.count,
      saved + 2 * rows.count, teacher_top.data(), row_loss};
  for (Index first = 0; first < rows.count; first += most) {
    const Index count = std::min(most, rows.count - first);
    const auto blocks = static_cast<unsigned>(cuda::ceil_div(count, cuda::logit_warps));
    const cuda::TaughtRows<A> these = all.behind(first);
    for (const bool again : {false, true}) {
      if (again && !teaching.twice()) break;
      for (Index v = 0; v < vocab; v += chunk) {
        const Index columns = std::min(chunk, vocab - v);
        if (!again || chunk < vocab) {
          cuda::multiply(device, count, columns, rows.width,
                         cuda::row_major(x + first * rows.stride, rows.stride),
                         cuda::transposed(w + v * rows.width, rows.width), student.data(), chunk, false);
          cuda::teacher_logits(device, teaching, first, count, v, columns, teacher.data(), chunk);
        }
        if (!again) {
          cuda::launch(device, "linear_distillation", cuda::merge_logits<A>, blocks, cuda::logit_threads, 0,
                       count, columns, v, vocab, student.data(), chunk, labels + first, top.data() + first,
                       these.lse, these.row_loss, argmax + first);
        }
        cuda::launch(device, "linear_distillation",
                     again ? cuda::measure_variation<A> : cuda::merge_teacher<A>, blocks, cuda::logit_threads,
                     0, count, columns, v, vocab, student.data(), teacher.data(), chunk, these);
      }
    }
  }
}

/// dlogits as TaughtRow::gradient() has them, times factor * dloss, 0 where ignored, computed again chunk by
/// chunk;  dx = dlogits W, dW = dlogits^T x. For bf16, dlogits is rounded to it before the two products.
template <typename T>
void linear_distillation_backward(const Cuda& device, const Teaching<T>& teaching, Rows rows, const T* x,
                                  Index vocab, const T* w, const std::int32_t* labels, const acc_t<T>* saved,
                                  const acc_t<T>* factor, const acc_t<T>* dloss, Sink<T> dx,
                                  Sink<acc_t<T>> dw) {
  using A = acc_t<T>;
  const Index most = std::min(cuda::loss_rows, rows.count);
  const cuda::Workspace<A> teacher(device, dx || dw ? most * std::min(loss_vocab, vocab) : 0);
  cuda::differentiate_chunks(
      device, rows, x, vocab, w, dx, dw,
      [&](Index first, Index count, Index v, Index columns, Index stride, const A* logits, T* dlogits) {
        cuda::teacher_logits(device, teaching, first, count, v, columns, teacher.data(), stride);
        cuda::launch(device, "linear_distillation", cuda::differentiate_taught<T>,
                     dim3(static_cast<unsigned>(count)), dim3(cuda::logit_threads), 0, teaching.divergence,
                     teaching.share, columns, v, logits, static_cast<const A*>(teacher.data()), stride,
                     labels + first, saved + first, rows.count, factor, dloss, dlogits);
      });
}

}  // namespace mtpx
