// What a GPU does when its memory ends, and that it gets all of it back. Not among the suites "twins: ..",
// which a memory checker runs: it would report every allocation that fails.

#include <mtpx/model/backward.hpp>

#include "support/model.hpp"

#include <cstdio>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("memory of a GPU");

namespace {

std::size_t free_memory() {
  std::size_t free = 0, total = 0;
  REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
  return free;
}

/// The device still computes.
bool works(const Cuda& on) {
  const auto x = Tensor<float, Cuda>::from(on, {3}, std::vector<float>{1, 2, 3});
  scale_into(on, 3, 2.0F, x.data(), Sink<float>{x.data(), true});
  return host(x) == Numbers{3, 6, 9};
}

}  // namespace

TEST_CASE("Cuda: more than there is: an error that says how much, and everything goes on") {
  const Cuda own;
  REQUIRE(works(own));
  const std::size_t in_use = own.pool().bytes_in_use();
  const std::size_t whole = own.properties().totalGlobalMem;
  const auto much = static_cast<Index>(whole / sizeof(float) + 1000);
  const std::string says = error_text<OutOfMemory>([&] { Tensor<float, Cuda>(own, {much}); });
  unsigned long long asked = 0, free = 0, total = 0;
  CAPTURE(says);
  REQUIRE(std::sscanf(says.c_str(), "[cuda] out of memory: %llu bytes asked for, %llu free of %llu;", &asked,
                      &free, &total) == 3);
  CHECK(asked >= static_cast<unsigned long long>(much) * sizeof(float));
  CHECK(total == whole);
  CHECK((free > 0 && free < total));
  CHECK(own.pool().bytes_in_use() == in_use);
  CHECK(works(own));
}

TEST_CASE("Cuda: memory that ends within a training step") {
  const Cuda own;
  Config c = dense_config(2);
  c.max_position_embeddings = 512;
  Transformer<float, Cuda> model(own, c);
  randomize(model, 1);
  const auto loss = [&](Index rows) {
    const Batch<Cuda> batch{Tensor<std::int32_t, Cuda>::zeros(own, {rows, 501}), {}, false};
    return host(mtp_backward(model, batch).total.value());
  };
  loss(1);  // gradients and the library of products have what they need
  model.zero_grad();
  std::vector<Tensor<float, Cuda>> all;  // of the memory
  for (Index size = Index{1} << 31; size >= 1 << 16;) {
    try {
      all.emplace_back(own, Shape{size});
    } catch (const OutOfMemory&) {
      size /= 2;
    }
  }
  const std::size_t in_use = own.pool().bytes_in_use();
  CHECK(error_text<OutOfMemory>([&] { loss(64); }) != "");
  CHECK(own.pool().bytes_in_use() == in_use);
  model.zero_grad();
  all.clear();
  const Numbers first = loss(64);
  model.zero_grad();
  CHECK(loss(64) == first);
  CHECK(all_finite(first));
}

TEST_CASE("Cuda: a device that is gone has given all memory back") {
  const std::size_t before = free_memory();
  {
    const Cuda own;
    const auto x = Tensor<float, Cuda>::zeros(own, {Index{1} << 28});
    CHECK(free_memory() + (std::size_t{1} << 30) <= before);
    CHECK(own.reserved_bytes() >= x.bytes());
  }
  CHECK(free_memory() + (std::size_t{64} << 20) >= before);  // streams and the like may stay cached
}

TEST_CASE("Cuda: no such device") {
  CHECK(error_text<DeviceError>([] { Cuda(1000); }).starts_with("[cuda] device 1000: "));
  std::string why;
  CHECK_FALSE(Cuda::available(1000, &why));
  CHECK(why != "");
}

TEST_SUITE_END();
