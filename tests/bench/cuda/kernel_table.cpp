// The table of docs/performance.md: every CUDA kernel of a training step at the sizes of a 0.74 B parameter
// model (hidden 1024, 8 x 2048 tokens, 32 experts, bf16), with its two floors: bytes over the bandwidth of a
// large copy and operations over the rate of a large product, both measured in the same run. Bytes count
// every operand once. A kernel's time is the median of replays of a CUDA graph that runs it on four sets of
// operands in turn.
//
//   cmake --build build/cuda --target mtpx_kernel_table && build/cuda/bin/mtpx_kernel_table

#include <mtpx/core/rng.hpp>
#include <mtpx/kernels.hpp>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace {

using namespace mtpx;

constexpr int sets = 4;  // operands in turn, so that none is found in the cache

/// `count` random numbers in [-scale, scale), four times over.
template <typename T>
struct Random {
  std::vector<Tensor<T, Cuda>> set;
  Random(const Cuda& device, Index count, double scale = 1, int copies = sets) {
    const Index period = std::min<Index>(count, 1 << 20);
    std::vector<T> values(static_cast<std::size_t>(period));
    for (int s = 0; s < copies; ++s) {
      for (std::size_t i = 0; i < values.size(); ++i) {
        const double u = Philox::block(static_cast<std::uint64_t>(s) + 1, 7, i)[0] / 2147483648.0 - 1.0;
        values[i] = T(static_cast<float>(scale * u));
      }
      Tensor<T, Cuda> x(device, {count});
      for (Index at = 0; at < count; at += period) {
        copy_to_device(device, x.data() + at, values.data(),
                       static_cast<std::size_t>(std::min(period, count - at)) * sizeof(T));
      }
      set.push_back(x);
    }
  }
  T* operator[](int s) const { return set[static_cast<std::size_t>(s) % set.size()].data(); }
};

class Table {
 public:
  explicit Table(const Cuda& device) : device_(device) {}

  /// Milliseconds of one run of work(set), by graph.
  double time(const std::function<void(int)>& work) {
    const Cuda::Current current(device_);
    Recorded<Cuda> recorded;
    const auto all = [&] {
      for (int s = 0; s < sets; ++s) work(s);
    };
    for (int i = 0; i < 3; ++i) recorded(device_, all);
    std::vector<float> times;
    cudaEvent_t begin, end;
    cudaEventCreate(&begin), cudaEventCreate(&end);
    for (int i = 0; i < 7; ++i) {
      cudaEventRecord(begin, device_.stream());
      recorded(device_, all);
      cudaEventRecord(end, device_.stream());
      device_.synchronize();
      float ms = 0;
      cudaEventElapsedTime(&ms, begin, end);
      times.push_back(ms / sets);
    }
    cudaEventDestroy(begin), cudaEventDestroy(end);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  void ceilings() {
    const Index n = 8192, bytes = Index{1} << 30;
    {
      const Random<bf16> a(device_, n * n, 1, 1), b(device_, n * n, 1, 1);
      Tensor<bf16, Cuda> c(device_, {n, n});
      const double ms = time([&](int) { linear_forward(device_, Rows{n, n, n}, a[0], n, b[0], c.data()); });
      flops_ = 2.0 * static_cast<double>(n) * n * n / ms * 1e3;
    }
    const Random<float> from(device_, bytes / 4, 1, 1);
    Tensor<float, Cuda> to(device_, {bytes / 4});
    const double ms =
        time([&](int) { copy_rows(device_, bytes / 4096, 1024, from[0], 1024, to.data(), 1024, false); });
    bandwidth_ = 2.0 * static_cast<double>(bytes) / ms * 1e3;
    std::printf("ceilings: product 8192^3 %.0f TFLOP/s, copy of 1 GiB %.0f GB/s\n\n", flops_ / 1e12,
                bandwidth_ / 1e9);
    std::printf("%-34s %9s %9s %8s %9s %8s %7s\n", "kernel", "us", "MB", "GB/s", "GFLOP", "TFLOP/s", "share");
  }

  /// bytes and operations that cannot be avoided; the share is that of the larger floor.
  void row(const char* name, double bytes, double operations, const std::function<void(int)>& work) {
    const double s = time(work) / 1e3;
    const double share = std::max(bytes / bandwidth_, operations / flops_) / s;
    std::printf("%-34s %9.1f %9.1f %8.0f %9.1f %8.1f %6.0f %%\n", name, s * 1e6, bytes / 1e6, bytes / s / 1e9,
                operations / 1e9, operations / s / 1e12, 100 * share);
    std::fflush(stdout);
  }

 private:
  const Cuda& device_;
  double flops_ = 1, bandwidth_ = 1;
};

constexpr Index rows = 16384, hidden = 1024;

void norms(const Cuda& d, Table& table) {
  const Random<bf16> x(d, rows * hidden), f(d, rows * hidden), dy(d, rows * hidden), dt(d, rows * hidden);
  const Random<float> gain(d, hidden, 1, 1);
  const Random<bf16> y(d, rows * hidden), total(d, rows * hidden);
  Tensor<float, Cuda> rstd(d, {rows}), dgain(d, {hidden});
  const double u = 2.0 * rows * hidden;
  const Rows r{rows, hidden, hidden};
  table.row("rms_norm forward", 2 * u, 0,
            [&](int s) { rms_norm_forward(d, r, x[s], gain[0], 1e-6F, y[s], rstd.data()); });
  table.row("rms_norm backward", 3 * u, 0, [&](int s) {
    rms_norm_backward(d, r, x[s], gain[0], rstd.data(), dy[s], Sink<bf16>{y[s], false},
                      Sink<float>{dgain.data(), false});
  });
  table.row("add_rms_norm forward", 4 * u, 0, [&](int s) {
    add_rms_norm_forward(d, rows, hidden, x[s], f[s], gain[0], 1e-6F, total[s], y[s], rstd.data());
  });
  table.row("add_rms_norm backward", 5 * u, 0, [&](int s) {
    add_rms_norm_backward(d, rows, hidden, x[s], gain[0], rstd.data(), dt[s], dy[s], Sink<bf16>{y[s], false},
                          Sink<bf16>{total[s], false}, Sink<float>{dgain.data(), false});
  });
  table.row("add", 3 * u, 0, [&](int s) {
    binary_forward(d, Binary::add, PairShape{1, rows * hidden, {}, {}}, nullptr, x[s], f[s], y[s]);
  });
  table.row("swiglu forward", 3 * u, 0, [&](int s) { swiglu_forward(d, rows * hidden, x[s], f[s], y[s]); });
  table.row("swiglu backward", 5 * u, 0, [&](int s) {
    swiglu_backward(d, rows * hidden, x[s], f[s], dy[s], Sink<bf16>{y[s], false},
                    Sink<bf16>{total[s], false});
  });
}

void embeddings(const Cuda& d, Table& table) {
  constexpr Index vocab = 32768;
  std::vector<std::int32_t> ids;
  for (Index i = 0; i < rows; ++i)
    ids.push_back(static_cast<std::int32_t>(Philox::block(1, 2, static_cast<std::uint64_t>(i))[0] % vocab));
  const auto tokens = Tensor<std::int32_t, Cuda>::from(d, {rows}, ids);
  const Random<bf16> w(d, vocab * hidden), x(d, rows * hidden);
  Tensor<float, Cuda> dw(d, {vocab, hidden});
  const Rows r{8, rows / 8, rows / 8};
  table.row("embedding forward", 4.0 * rows * hidden, 0, [&](int s) {
    embedding_forward(d, "embedding", r, tokens.data(), Rows{vocab, hidden, hidden}, w[s], x[s]);
  });
  table.row("embedding backward, overwrite", 2.0 * rows * hidden + 4.0 * vocab * hidden, 0, [&](int s) {
    embedding_backward(d, "embedding", r, tokens.data(), vocab, hidden, x[s], Sink<float>{dw.data(), false});
  });
}

void rotations_and_attention(const Cuda& d, Table& table) {
  for (const AttentionShape& a :
       {AttentionShape{8, 2048, 8, 128, 64, 128}, AttentionShape{4, 4096, 8, 128, 64, 128}}) {
    const Index n = a.batch * a.time, qw = a.heads * (a.nope + a.rope), kw = a.heads * (a.nope + a.v),
                ow = a.heads * a.v;
    const Random<bf16> q(d, n * qw), kv(d, n * kw), k_rope(d, n * a.rope), d_o(d, n * ow), o(d, n * ow);
    const Random<bf16> dq(d, n * qw), dkv(d, n * kw), dk_rope(d, n * a.rope);
    Tensor<float, Cuda> lse(d, {a.batch * a.heads, a.time});
    if (a.time == 2048) {
      const Random<float> cos(d, a.time * a.rope / 2, 1, 1);
      Tensor<std::int32_t, Cuda> positions(d, {n});
      fill_positions(d, a.batch, a.time, 0, positions.data());
      table.row("rope of queries", 4.0 * static_cast<double>(n * qw), 0, [&](int s) {
        rope_apply(d, Rows{n, qw, qw}, a.heads, a.rope, q[s], positions.data(), cos[0], cos[0], 1,
                   Sink<bf16>{dq[s], false});
      });
    }
    const double work =
        static_cast<double>(n * a.time * a.heads) * static_cast<double>(a.nope + a.rope + a.v);
    const double bytes = 2.0 * static_cast<double>(n * (qw + kw + a.rope + ow));
    const std::string at = a.time == 2048 ? " 192/128, T 2048" : " 192/128, T 4096";
    table.row(("attention forward" + at).c_str(), bytes, work, [&](int s) {
      attention_forward(d, a, q[s], kv[s], k_rope[s], nullptr, 0.0722F, o[s], lse.data());
    });
    table.row(("attention backward" + at).c_str(), 2 * bytes, 2.5 * work, [&](int s) {
      attention_backward(d, a, q[s], kv[s], k_rope[s], nullptr, 0.0722F, o[s], lse.data(), d_o[s],
                         Sink<bf16>{dq[s], false}, Sink<bf16>{dkv[s], false}, Sink<bf16>{dk_rope[s], false});
    });
  }
}

void experts(const Cuda& d, Table& table) {
  const ExpertsShape e{rows, hidden, 512, 32, 4};
  const Random<bf16> x(d, rows * hidden), y(d, rows * hidden), dy(d, rows * hidden);
  const Random<bf16> wg(d, e.experts * e.inner * e.width), wu(d, e.experts * e.inner * e.width),
      wd(d, e.experts * e.inner * e.width);
  const Random<bf16> gate(d, e.slots() * e.inner), up(d, e.slots() * e.inner);
  const Random<float> router(d, e.experts * hidden), bias(d, e.experts, 0, 1);
  Tensor<float, Cuda> logits(d, {rows, e.experts}), scores(d, {rows, e.experts}), weights(d, {rows, e.top_k}),
      dweights(d, {rows, e.top_k}), drouter(d, {e.experts, hidden});
  Tensor<std::int32_t, Cuda> ids(d, {rows, e.top_k}), offsets(d, {e.experts + 1}), slot(d, {e.slots()}),
      place(d, {e.slots()});
  const Random<float> dwg(d, e.experts * e.inner * e.width, 1, 1),
      dwu(d, e.experts * e.inner * e.width, 1, 1), dwd(d, e.experts * e.inner * e.width, 1, 1);
  const Rows r{rows, hidden, hidden};
  const Routing routing{e.experts, e.top_k, 1, 1, true, 1.0};
  const double u = 2.0 * rows * hidden, router_work = 2.0 * rows * hidden * 32;
  table.row("router product forward", u, router_work,
            [&](int s) { linear_forward(d, r, x[s], e.experts, router[s], logits.data()); });
  table.row("router product, input gradient", u, router_work, [&](int s) {
    linear_backward_input(d, r, e.experts, router[s], logits.data(), Sink<bf16>{y[s], false});
  });
  table.row("router product, weight gradient", u, router_work, [&](int s) {
    linear_backward_weight(d, r, x[s], e.experts, logits.data(), Sink<float>{drouter.data(), false});
  });
  table.row("sigmoid and route", 4.0 * rows * 32, 0, [&](int) {
    unary_forward(d, Unary::sigmoid, 1.0F, 0.0F, Rows{1, rows * e.experts, 0}, logits.data(), scores.data());
    route_forward(d, rows, routing, scores.data(), bias[0], ids.data(), weights.data());
  });
  table.row("plan_experts", 12.0 * static_cast<double>(e.slots()), 0, [&](int) {
    plan_experts<float>(d, e.slots(), e.experts, ids.data(), offsets.data(), slot.data(), place.data(),
                        nullptr);
  });
  const double product = 2.0 * static_cast<double>(e.slots() * e.width * e.inner);
  const double inner = 2.0 * static_cast<double>(e.slots() * e.inner), w = 2.0 * 32 * 512 * 1024;
  table.row("experts forward", 2 * u + 2 * inner + 3 * w, 3 * product, [&](int s) {
    experts_forward(d, e, offsets.data(), slot.data(), place.data(), x[s], hidden, weights.data(), wg[s],
                    wu[s], wd[s], gate[s], up[s], y[s]);
  });
  table.row("experts backward", 3 * u + 2 * inner + 9 * w, 6 * product, [&](int s) {
    experts_backward(d, e, offsets.data(), slot.data(), place.data(), x[s], hidden, weights.data(), wg[s],
                     wu[s], wd[s], gate[s], up[s], dy[s], Sink<bf16>{y[s], false},
                     Sink<float>{dweights.data(), false}, Sink<float>{dwg[0], false},
                     Sink<float>{dwu[0], false}, Sink<float>{dwd[0], false});
  });
}

void products_and_losses(const Cuda& d, Table& table) {
  constexpr Index out = 4096, vocab = 32768;
  const Random<bf16> x(d, rows * hidden), y(d, rows * out), w(d, out * hidden);
  Tensor<float, Cuda> dw(d, {out, hidden});
  const Rows r{rows, hidden, hidden};
  const double product = 2.0 * rows * hidden * out, bytes = 2.0 * (rows * hidden + rows * out + out * hidden);
  table.row("product 1024 -> 4096", bytes, product,
            [&](int s) { linear_forward(d, r, x[s], out, w[s], y[s]); });
  table.row("product, input gradient", bytes, product, [&](int s) {
    linear_backward_input(d, r, out, w[s], y[s], Sink<bf16>{x[s], false});
  });
  table.row("product, weight gradient", bytes, product, [&](int s) {
    linear_backward_weight(d, r, x[s], out, y[s], Sink<float>{dw.data(), true});
  });
  const Random<bf16> head(d, vocab * hidden, 0.02, 1), dx(d, rows * hidden);
  std::vector<std::int32_t> ids;
  for (Index i = 0; i < rows; ++i) ids.push_back(static_cast<std::int32_t>(i * 7919 % vocab));
  const auto labels = Tensor<std::int32_t, Cuda>::from(d, {rows}, ids);
  Tensor<float, Cuda> lse(d, {rows}), loss(d, {rows}), scale(d, {1}), dhead(d, {vocab, hidden});
  Tensor<std::int32_t, Cuda> best(d, {rows});
  fill_value(d, 1, 1.0F / rows, scale.data());
  const double logits = 2.0 * rows * hidden * vocab, b = 2.0 * (rows * hidden + vocab * hidden);
  table.row("cross-entropy forward", b, logits, [&](int s) {
    linear_cross_entropy_forward(d, r, x[s], vocab, head[0], labels.data(), lse.data(), loss.data(),
                                 best.data());
  });
  table.row("cross-entropy backward", 2 * b, 3 * logits, [&](int s) {
    linear_cross_entropy_backward(d, r, x[s], vocab, head[0], labels.data(), lse.data(), scale.data(),
                                  scale.data(), Sink<bf16>{dx[s], false}, Sink<float>{dhead.data(), false});
  });
  const Tensor<float, Cuda> saved(d, {3, rows});
  for (const bool twice : {false, true}) {
    const auto teaching = [&](int s) {
      return Teaching<bf16>{twice ? Divergence::total_variation : Divergence::kl, 1, r, y[s], head[0]};
    };
    const std::string name = twice ? "distillation, total variation" : "distillation, KL";
    table.row((name + ", forward").c_str(), (twice ? 3 : 1.5) * b, (twice ? 4 : 2) * logits, [&](int s) {
      linear_distillation_forward(d, teaching(s), r, x[s], vocab, head[0], labels.data(), saved.data(),
                                  loss.data(), best.data());
    });
    table.row((name + ", backward").c_str(), 2.5 * b, 4 * logits, [&](int s) {
      linear_distillation_backward(d, teaching(s), r, x[s], vocab, head[0], labels.data(), saved.data(),
                                   scale.data(), scale.data(), Sink<bf16>{dx[s], false},
                                   Sink<float>{dhead.data(), false});
    });
  }
}

void optimiser(const Cuda& d, Table& table) {
  constexpr Index count = 200'000'000, tensors = 100, each = count / tensors;
  const Random<float> grad(d, count, 1e-3, 1), m(d, count, 0, 1), v(d, count, 0, 1), master(d, count, 1, 1);
  Tensor<bf16, Cuda> p(d, {count});
  Tensor<double, Cuda> numbers(d, {tensors + 5});
  std::vector<AdamWTensor<bf16>> all;
  std::vector<std::span<const float>> gradients;
  for (Index i = 0; i < tensors; ++i) {
    const Index at = i * each;
    all.push_back({each, grad[0] + at, m[0] + at, v[0] + at, master[0] + at, p.data() + at, 0.1});
    gradients.emplace_back(grad[0] + at, each);
  }
  double* const rates = numbers.data() + tensors;
  for (int i = 0; i < 3; ++i) fill_value(d, 1, i == 0 ? 1e-4 : 0.5, rates + i);
  fill_value(d, 1, 1.0, rates + 3);
  table.row("sums_of_squares", 4.0 * count, 0, [&](int) {
    sums_of_squares(d, std::span<const std::span<const float>>(gradients), numbers.data());
  });
  table.row("adamw_step, bf16 with masters", 30.0 * count, 0, [&](int) {
    adamw_step(d, std::span<const AdamWTensor<bf16>>(all), AdamWStep{0.9, 0.95, 1e-8}, rates, rates + 3);
  });
}

}  // namespace

int main() {
  try {
    const Cuda device;
    std::printf("%s, %d multiprocessors\n", device.properties().name, device.processors());
    Table table(device);
    table.ceilings();
    norms(device, table);
    embeddings(device, table);
    rotations_and_attention(device, table);
    products_and_losses(device, table);
    experts(device, table);
    optimiser(device, table);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 7;
  }
}
