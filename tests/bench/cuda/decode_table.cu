// What a decoding pass is made of: the launches of a layer by time, bytes and share of the bandwidth of a
// large read, all measured in the same run. Halves of the layers are captured as graphs; a launch's time is
// that of a graph of this launch alone, layer after layer. Weights are random, and many times the cache.
//
//   cmake --build build/cuda --target mtpx_decode_table
//   build/cuda/bin/mtpx_decode_table [small|gigachat|all] [rows]..

#include <mtpx/core/rng.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/kernels/cuda/build/fused.cuh>

#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace {

using namespace mtpx;

void check(cudaError_t error) { detail::cuda_check(error, "decode_table"); }

struct ModelShape {
  const char* name;
  Index hidden, q_rank, latent, heads, nope, rope, v, experts, top_k, inner, shared, vocab;
  int layers;
};
constexpr ModelShape shapes[] = {{"small", 1024, 384, 256, 8, 128, 64, 128, 32, 4, 512, 512, 32768, 12},
                                 {"gigachat", 1536, 0, 512, 32, 128, 64, 192, 64, 4, 1280, 1280, 128256, 6}};
constexpr Index context = 2048, capacity = 2304;

__global__ void fill(bf16* p, Index n, std::uint32_t seed, float scale) {
  for (Index i = blockIdx.x * Index{blockDim.x} + threadIdx.x; i < n; i += Index{gridDim.x} * blockDim.x) {
    std::uint32_t x = static_cast<std::uint32_t>(i) * 2654435761U ^ seed;
    x = (x ^ x >> 16) * 0x7feb352dU;
    x = (x ^ x >> 15) * 0x846ca68bU;
    p[i] = cuda::narrow<bf16>(scale * (static_cast<float>(x ^ x >> 16) / 2147483648.0F - 1.0F));
  }
}

/// A model's layers, random.
struct Model {
  Cuda device;
  ModelShape s;
  std::vector<Tensor<bf16, Cuda>> weights;
  std::vector<Tensor<float, Cuda>> numbers;
  std::vector<DecodeAttention<bf16>> attention;
  std::vector<DecodeFeedForward<bf16>> ffn;
  std::vector<Tensor<bf16, Cuda>> states;
  Tensor<std::int32_t, Cuda> sequences, positions;
  bf16* head;

  bf16* random(Index count, float scale) {
    if (count == 0) return nullptr;
    weights.emplace_back(device, Shape{count});
    fill<<<1024, 256, 0, device.stream()>>>(weights.back().data(), count,
                                            static_cast<std::uint32_t>(weights.size()) * 77, scale);
    return weights.back().data();
  }
  float* random_floats(Index count, double mean, double scale) {
    if (count == 0) return nullptr;
    std::vector<float> values;
    for (Index i = 0; i < count; ++i)
      values.push_back(static_cast<float>(
          mean +
          scale * (Philox::block(numbers.size(), 7, static_cast<std::uint64_t>(i))[0] / 2147483648.0 - 1)));
    numbers.push_back(Tensor<float, Cuda>::from(device, {count}, values));
    return numbers.back().data();
  }

  explicit Model(const ModelShape& shape) : s(shape) {
    const Index width = s.latent + s.rope, q = s.heads * (s.nope + s.rope);
    const float* const cos = random_floats(capacity * s.rope / 2, 0, 1);
    for (int l = 0; l < s.layers; ++l) {
      DecodeAttention<bf16> a;
      a.hidden = s.hidden, a.q_rank = s.q_rank, a.latent = s.latent;
      a.heads = {.heads = s.heads, .nope = s.nope, .rope = s.rope, .v = s.v};
      a.eps = a.latent_eps = 1e-6F, a.scale = 0.07F;
      a.norm = random_floats(s.hidden, 1, 0.2), a.q_norm = random_floats(s.q_rank, 1, 0.2);
      a.kv_norm = random_floats(s.latent, 1, 0.2);
      a.q_a = random((s.q_rank > 0 ? s.q_rank : q) * s.hidden, 0.02F);
      a.q_b = random(q * s.q_rank, 0.02F);
      a.kv_a = random(width * s.hidden, 0.02F);
      a.kv_b = random(s.heads * (s.nope + s.v) * s.latent, 0.02F);
      a.o = random(s.hidden * s.heads * s.v, 0.02F);
      a.cos = a.sin = cos;
      a.capacity = capacity;
      a.cache = random(8 * capacity * width, 1);
      attention.push_back(a);
      DecodeFeedForward<bf16> f;
      f.hidden = s.hidden, f.eps = 1e-6F, f.norm = random_floats(s.hidden, 1, 0.2);
      f.routing.n_experts = s.experts, f.routing.top_k = s.top_k, f.routing.n_group = 1,
      f.routing.topk_group = 1;
      f.routing.norm_topk_prob = true, f.routing.scaling_factor = 1, f.routing.scoring = ScoringFunc::sigmoid;
      f.inner = s.inner, f.shared_inner = s.shared;
      f.router = random_floats(s.experts * s.hidden, 0, 0.05), f.bias = random_floats(s.experts, 0, 0.01);
      f.gate = random(s.experts * s.inner * s.hidden, 0.02F),
      f.up = random(s.experts * s.inner * s.hidden, 0.02F);
      f.down = random(s.experts * s.inner * s.hidden, 0.02F);
      f.shared_gate = random(s.shared * s.hidden, 0.02F), f.shared_up = random(s.shared * s.hidden, 0.02F);
      f.shared_down = random(s.shared * s.hidden, 0.02F);
      ffn.push_back(f);
    }
    head = random(s.vocab * s.hidden, 0.02F);
    for (int i = 0; i < s.layers + 1; ++i) states.emplace_back(device, Shape{16, s.hidden});
    fill<<<16, 256, 0, device.stream()>>>(states[0].data(), 16 * s.hidden, 5, 1);
    device.synchronize();
  }

  /// rows of `apart`: one sequence, or one each
  void place(Index rows, bool apart) {
    std::vector<std::int32_t> of, at;
    for (Index r = 0; r < rows; ++r) {
      of.push_back(apart ? static_cast<std::int32_t>(r % 8) : 0);
      at.push_back(static_cast<std::int32_t>(context + (apart ? -r * 128 : r)));
    }
    sequences = Tensor<std::int32_t, Cuda>::from(device, {rows}, of);
    positions = Tensor<std::int32_t, Cuda>::from(device, {rows}, at);
    for (DecodeAttention<bf16>& a : attention) {
      a.rows = rows;
      a.sequences = sequences.data(), a.positions = a.places = positions.data();
    }
    for (DecodeFeedForward<bf16>& f : ffn) f.rows = rows;
  }
  /// A half of the layers alone: what its launches hand on then stays where it is when some are left out.
  void pass(bool attends, bool feeds) const {
    const Tensor<bf16, Cuda> h(device, {16, s.hidden});
    for (std::size_t l = 0; l < attention.size(); ++l) {
      if (attends) decode_attention(device, attention[l], states[l].data(), h.data());
      if (feeds)
        decode_feed_forward(device, ffn[l], attends ? static_cast<const bf16*>(h.data()) : states[l].data(),
                            states[l + 1].data());
    }
  }

  /// Bytes of weights and cache that launch `i` of a layer's `count` reads; `chosen` experts.
  double bytes(int i, int count, double caches, double chosen) const {
    const auto d = [](Index n) { return static_cast<double>(n); };
    const double q = d(s.heads * (s.nope + s.rope)), width = d(s.latent + s.rope);
    const double kv = 2 * d(s.heads * s.latent), in = d(s.hidden);
    const double first = 2 * (s.q_rank > 0 ? d(s.q_rank) : q) * in + 2 * width * in;
    const double second = 2 * q * d(s.q_rank) + kv * d(s.nope);  // absent or with the absorbed queries
    const double cache = 2 * caches * d(context) * width, values = kv * d(s.v);
    const double out = 2 * in * d(s.heads * s.v), router = 4 * d(s.experts) * in;
    const double inner = 2 * in * (chosen * d(s.inner) + d(s.shared));
    std::vector<double> all{first};
    if (count == 9) all.push_back(2 * q * d(s.q_rank)), all.push_back(kv * d(s.nope));
    if (count == 8) all.push_back(second);
    for (const double x : {cache, values, out, router, 2 * inner, inner}) all.push_back(x);
    return all[static_cast<std::size_t>(i)];
  }
};

/// Kernels of a captured pass, in their order.
struct Captured {
  cudaGraph_t graph;
  std::vector<cudaGraphNode_t> nodes;
  std::vector<bool> early;  // whether a node may start early
  const Cuda& device;

  Captured(const Cuda& on, const std::function<void()>& work) : device(on) {
    work();
    device.synchronize();
    check(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal));
    work();
    check(cudaStreamEndCapture(device.stream(), &graph));
    std::size_t count = 0;
    check(cudaGraphGetNodes(graph, nullptr, &count));
    nodes.resize(count);
    check(cudaGraphGetNodes(graph, nodes.data(), &count));
    check(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &count));
    std::vector<cudaGraphNode_t> from(count), to(count);
    std::vector<cudaGraphEdgeData> data(count);
    check(cudaGraphGetEdges(graph, from.data(), to.data(), data.data(), &count));
    std::vector<cudaGraphNode_t> in_order;
    for (cudaGraphNode_t node : nodes) {
      if (std::find(to.begin(), to.end(), node) == to.end()) in_order = {node};
    }
    early = {false};
    for (;;) {
      const auto next = std::find(from.begin(), from.end(), in_order.back());
      if (next == from.end()) break;
      const auto at = static_cast<std::size_t>(next - from.begin());
      in_order.push_back(to[at]);
      early.push_back(data[at].type == cudaGraphDependencyTypeProgrammatic);
    }
    if (in_order.size() != nodes.size()) std::printf("captured work is no chain\n"), std::exit(1);
    nodes = in_order;
  }
  ~Captured() { cudaGraphDestroy(graph); }

  std::string name(std::size_t i) const {
    cudaKernelNodeParams p{};
    if (cudaGraphKernelNodeGetParams(nodes[i], &p) != cudaSuccess) return "?";
    const char* mangled = "?";
    check(cudaFuncGetName(&mangled, p.func));
    int status = 0;
    char* const text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
    std::string all = status == 0 ? text : mangled;
    std::free(text);
    all = all.substr(0, all.find('('));
    const std::size_t at = all.find("mtpx::cuda::");
    return at == std::string::npos ? all : all.substr(at + 12);
  }

  /// Microseconds of the nodes that `wanted` takes, one after the other.
  double time(const std::function<bool(std::size_t)>& wanted) const {
    cudaGraph_t some;
    check(cudaGraphCreate(&some, 0));
    cudaGraphNode_t last = nullptr;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (!wanted(i)) continue;
      cudaKernelNodeParams p{};
      check(cudaGraphKernelNodeGetParams(nodes[i], &p));
      cudaGraphNode_t node;
      check(cudaGraphAddKernelNode(&node, some, nullptr, 0, &p));
      check(cudaGraphKernelNodeCopyAttributes(node, nodes[i]));
      if (last != nullptr) {
        cudaGraphEdgeData edge{};
        if (early[i]) {
          edge.from_port = cudaGraphKernelNodePortProgrammatic;
          edge.type = cudaGraphDependencyTypeProgrammatic;
        }
        check(cudaGraphAddDependencies(some, &last, &node, &edge, 1));
      }
      last = node;
    }
    cudaGraphExec_t exec;
    check(cudaGraphInstantiate(&exec, some, 0));
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    std::vector<float> times;
    for (int i = 0; i < 25; ++i) {
      check(cudaEventRecord(begin, device.stream()));
      check(cudaGraphLaunch(exec, device.stream()));
      check(cudaEventRecord(end, device.stream()));
      device.synchronize();
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin, end));
      if (i > 4) times.push_back(1000 * ms);
    }
    std::sort(times.begin(), times.end());
    check(cudaEventDestroy(begin));
    check(cudaEventDestroy(end));
    check(cudaGraphExecDestroy(exec));
    check(cudaGraphDestroy(some));
    return times[times.size() / 2];
  }
};

/// Bytes a second of a read of 3 GB.
double read_rate(const Cuda& device) {
  const Index count = Index{3} << 28;
  const auto from = Tensor<float, Cuda>::zeros(device, {count});
  const Tensor<double, Cuda> sum(device, {1});
  const std::span<const float> all(from.data(), static_cast<std::size_t>(count));
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    check(cudaEventRecord(begin, device.stream()));
    sums_of_squares(device, std::span(&all, 1), sum.data());
    check(cudaEventRecord(end, device.stream()));
    device.synchronize();
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    best = std::max(best, static_cast<double>(from.bytes()) / ms * 1e3);
  }
  return best;
}

void table(const Model& model, Index rows, bool apart, double roof) {
  const ModelShape& s = model.s;
  const auto layers = static_cast<std::size_t>(s.layers);
  const auto every = [](std::size_t) { return true; };
  double all = 0;
  std::size_t launches = 0;
  {
    const Captured pass(model.device, [&] { model.pass(true, true); });
    all = pass.time(every) / s.layers;
    launches = pass.nodes.size() / layers;
  }
  std::uint64_t sum_of_bits = 0;  // to compare builds
  for (const bf16 x : model.states.back().slice_front(0, rows).to_host())
    sum_of_bits = sum_of_bits * 1099511628211U + x.bits;
  std::printf("\n%s, %d rows%s: %.2f us a layer of %zu launches; bits %016llx\n", s.name,
              static_cast<int>(rows), apart ? " of as many sequences" : "", all, launches,
              static_cast<unsigned long long>(sum_of_bits));
  // Of experts chosen at random: how many are read.
  double missed = 1;
  for (Index r = 0; r < rows; ++r)
    missed *= 1 - static_cast<double>(s.top_k) / static_cast<double>(s.experts);
  const double chosen = static_cast<double>(s.experts) * (1 - missed);
  double sum = 0;
  int launch = 0;
  for (const bool attends : {true, false}) {
    const Captured half(model.device, [&] { model.pass(attends, !attends); });
    const std::size_t each = half.nodes.size() / layers;
    half.time(every);
    for (std::size_t i = 0; i < each; ++i, ++launch) {
      const double alone = half.time([&](std::size_t n) { return n % each == i; }) / s.layers;
      half.time(every);  // so that the next finds what it reads
      const double bytes =
          model.bytes(launch, static_cast<int>(launches), apart ? static_cast<double>(rows) : 1, chosen);
      sum += bytes;
      std::printf("  %-52s %6.2f us; %6.2f MB: %5.2f us at the roof, %3.0f %%\n",
                  half.name(i).substr(0, 52).c_str(), alone, bytes / 1e6, 1e6 * bytes / roof,
                  100 * bytes / roof / (alone * 1e-6));
    }
  }
  const Tensor<std::int32_t, Cuda> ids(model.device, {rows});
  const Captured head(model.device, [&] {
    for (int i = 0; i < 4; ++i)
      decode_tokens(model.device, Rows{rows, s.hidden, s.hidden},
                    static_cast<const bf16*>(model.states[1].data()), s.vocab,
                    static_cast<const bf16*>(model.head), nullptr, nullptr, ids.data());
  });
  const double head_time = head.time([](std::size_t) { return true; }) / 4;
  const double head_bytes = 2 * static_cast<double>(s.vocab * s.hidden);
  std::printf("  a layer: %.2f MB, %.2f us at the roof, %.0f %%; head: %.2f us, %.2f MB, %.0f %%\n",
              sum / 1e6, 1e6 * sum / roof, 100 * sum / roof / (all * 1e-6), head_time, head_bytes / 1e6,
              100 * head_bytes / roof / (head_time * 1e-6));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  double roof = 0;
  {
    const Cuda device;
    const Cuda::Current current(device);
    roof = read_rate(device);
    std::printf("%s, %d multiprocessors; a read of 3 GB: %.0f GB/s\n", device.properties().name,
                device.processors(), roof / 1e9);
  }
  std::vector<Index> rows;
  for (int i = 2; i < argc; ++i) rows.push_back(std::atoi(argv[i]));
  if (rows.empty()) rows = {1, 2, 4, 8};
  for (const ModelShape& s : shapes) {
    if (argc > 1 && std::string(argv[1]) != s.name && std::string(argv[1]) != "all") continue;
    Model model(s);
    const Cuda::Current current(model.device);
    for (const Index n : rows) {
      for (const bool apart : {false, true}) {
        if (n == 1 && apart) continue;
        model.place(n, apart);
        table(model, n, apart, roof);
      }
    }
  }
  return 0;
}
