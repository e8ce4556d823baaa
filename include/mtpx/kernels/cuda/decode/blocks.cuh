#pragma once
// Blocks of a decoding pass, one after the other: whole layers in one cluster where that holds them, else
// launch by launch.

#include "attention.cuh"
#include "cluster_blocks.cuh"
#include "feed_forward.cuh"

#include <numbers>

namespace mtpx {

namespace cuda {

/// A launch of one cluster.
struct ClusterLaunch {
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};

  void (*const kernel)(ClusterPass, const bf16*, bf16*);

  ClusterLaunch(const Cuda& device, const ClusterShape& s)
      : kernel(s.latent <= 64 ? cluster_blocks<8> : cluster_blocks<16>) {
    const void* const address = reinterpret_cast<const void*>(kernel);
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {static_cast<unsigned>(s.blocks), 1, 1};
    config.gridDim = dim3(static_cast<unsigned>(s.blocks));
    config.blockDim = dim3(cluster_threads);
    config.dynamicSmemBytes = static_cast<std::size_t>(s.bytes);
    config.stream = device.stream();
    config.attrs = attributes;
    config.numAttrs = 2;
    allow_shared("decode_blocks", address, config.dynamicSmemBytes);
    detail::cuda_check(cudaFuncSetAttribute(address, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
                       "decode_blocks");
  }
  ClusterLaunch(const ClusterLaunch&) = delete;
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;
};

/// How many thread blocks run a block of these sizes: 16, 8, or 0 where neither cluster holds it. Of the
/// sizes and the chip alone, so that a row takes the same path in every pass.
template <typename T>
int cluster_of(const Cuda& device, const DecodeBlock<T>& p) {
  const DecodeAttention<T>& a = p.attention;
  const AttentionShape& s = a.heads;
  const Index inner = p.ffn.shared_inner;
  if (device.planned() || device.properties().major != 9 || a.q_rank > 0 || p.ffn.routing.n_experts > 0)
    return 0;
  const bool whole = a.hidden % stream_step == 0 && inner % stream_step == 0 &&
                     s.heads * s.v % stream_step == 0 && s.nope % 16 == 0 && a.latent % 16 == 0 &&
                     (a.latent + s.rope) % 16 == 0 && s.v % 8 == 0;
  if (!whole || inner == 0 || a.latent > cluster_most_latent) return 0;
  const Cuda::Current current(device);
  for (const int blocks : {16, 8}) {
    if (s.heads > blocks || a.hidden / 8 < blocks) continue;
    const ClusterShape shape = cluster_shape(p, blocks);
    if (static_cast<std::size_t>(shape.bytes) > device.properties().sharedMemPerBlockOptin) continue;
    const ClusterLaunch launch(device, shape);
    int resident = 0;
    if (cudaOccupancyMaxActiveClusters(&resident, launch.kernel, &launch.config) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      continue;
    }
    if (resident > 0) return blocks;
  }
  return 0;
}

/// Whether a launch may run both.
template <typename T>
bool same_sizes(const DecodeBlock<T>& a, const DecodeBlock<T>& b) {
  const auto sizes = [](const DecodeBlock<T>& p) {
    const AttentionShape& s = p.attention.heads;
    return std::tuple(p.attention.hidden, p.attention.q_rank, p.attention.latent, p.attention.capacity,
                      s.heads, s.nope, s.rope, s.v, p.ffn.routing.n_experts, p.ffn.shared_inner,
                      p.attention.cos, p.attention.sequences, p.attention.positions, p.attention.places);
  };
  return sizes(a) == sizes(b);
}

/// `count` blocks of the same sizes: launches of up to 8 rows and 24 layers.
template <typename T>
void run_cluster(const Cuda& device, int blocks, Index count, const DecodeBlock<T>* layers, const T* x,
                 T* y) {
  const Cuda::Current current(device);
  const Index rows = layers[0].attention.rows, hidden = layers[0].attention.hidden;
  ClusterPass pass;
  pass.s = cluster_shape(layers[0], blocks);
  const ClusterLaunch launch(device, pass.s);
  for (Index first = 0; first < rows; first += cluster_rows) {
    const T* from = x + first * hidden;
    T* const to = y + first * hidden;
    pass.s.rows = static_cast<int>(std::min<Index>(cluster_rows, rows - first));
    pass.s.first = static_cast<int>(first);
    for (Index at = 0; at < count; at += cluster_most_layers) {
      pass.s.layers = static_cast<int>(std::min<Index>(cluster_most_layers, count - at));
      for (int n = 0; n < pass.s.layers; ++n) {
        const auto& [a, f] = layers[at + n];
        pass.layer[n] = {{a.q_a, a.kv_a, a.kv_b, a.norm, a.kv_norm, a.o, f.norm, f.shared_gate, f.shared_up,
                          f.shared_down},
                         a.cache,
                         a.eps,
                         a.latent_eps,
                         f.eps,
                         a.scale * std::numbers::log2e_v<float>};
      }
      detail::cuda_check(cudaLaunchKernelEx(&launch.config, launch.kernel, pass, from, to), "decode_blocks");
      from = to;
    }
  }
}

}  // namespace cuda

/// y = the blocks, one after the other, of x, appending to their caches. Where decode_fits().
///   x, y: [rows, hidden]
template <typename T>
void decode_blocks(const Cuda& device, Index count, const DecodeBlock<T>* blocks, const T* x, T* y) {
  const Index numbers = count > 0 ? blocks[0].attention.rows * blocks[0].attention.hidden : 0;
  const cuda::Workspace<T> h(device, numbers), between(device, count > 1 ? 2 * numbers : 0);
  for (Index at = 0, turn = 0; at < count; turn = 1 - turn) {
    const DecodeBlock<T>* const some = blocks + at;
    const int cluster = cuda::cluster_of(device, *some);
    Index n = 1;
    while (cluster > 0 && at + n < count && cuda::same_sizes(*some, some[n])) ++n;
    T* const to = at + n == count ? y : between.data() + turn * numbers;
    if (cluster > 0) {
      cuda::run_cluster(device, cluster, n, some, x, to);
    } else {
      decode_attention(device, some->attention, x, h.data());
      decode_feed_forward(device, some->ffn, h.data(), to);
    }
    x = to;
    at += n;
  }
}

}  // namespace mtpx
