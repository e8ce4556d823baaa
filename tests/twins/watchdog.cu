// A wait of a cluster's blocks for each other that cannot end says so and traps: each sends one number less
// than the other counts on.

#include <mtpx/kernels/cuda/decode/cluster_parts.cuh>

using namespace mtpx::cuda;

__global__ void __cluster_dims__(2, 1, 1) wait_for_more() {
  std::uint64_t* const counter = reinterpret_cast<std::uint64_t*>(cluster_memory);
  const Arrival arrival(shared_address(counter));
  if (threadIdx.x == 0) {
    arrival.begin();
    arrival.expect(2 * sizeof(uint4));
  }
  cluster_sync();
  const int other = 1 - static_cast<int>(blockIdx.x);
  if (threadIdx.x == 0)
    send(in_cluster(shared_address(counter + 2), other), uint4{1, 2, 3, 4}, in_cluster(arrival.at, other));
  arrival.wait(0, "a number that nobody sends");
}

int main() {
  int count = 0, major = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return std::puts("skipped: no GPU"), 77;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess || major < 9)
    return std::puts("skipped: no GPU with clusters"), 77;
  wait_for_more<<<2, 32, 64>>>();
  const cudaError_t status = cudaDeviceSynchronize();
  std::printf("status: %s\n", cudaGetErrorString(status));
  return status == cudaSuccess ? 1 : 0;
}
