#include <mtpx/core/cpu.hpp>
#include <mtpx/core/meta.hpp>
#include <mtpx/core/tensor.hpp>

#include <doctest/doctest.h>

#include <memory>
#include <new>
#include <vector>

using namespace mtpx;

TEST_SUITE_BEGIN("mtpx/core/device.hpp");

namespace {

/// All that a device with the host's memory must say.
class Third {
 public:
  static constexpr Memory memory = Memory::host;
  using Current = AlwaysCurrent;
  struct Empty {};

  explicit Third(Empty) {}
  /// Counts in `live` what its pool holds of the host's.
  explicit Third(int& live)
      : pool_(std::make_shared<Pool>(
            [&live](std::size_t bytes) {
              ++live;
              return ::operator new(bytes);
            },
            [&live](void* data) {
              --live;
              ::operator delete(data);
            })) {}
  Pool& pool() const { return *pool_; }

 private:
  std::shared_ptr<Pool> pool_;
};

struct Guardless {
  static constexpr Memory memory = Memory::host;
  struct Empty {};
  explicit Guardless(Empty);
  Pool& pool() const;
};
struct OwnMemory : Third {  // nobody has written its transfers
  static constexpr Memory memory = Memory::own;
  using Third::Third;
};

static_assert(IsDevice<Third> && HostMemory<Third> && !NoMemory<Third>);
static_assert(HostMemory<Cpu> && !HostMemory<Meta> && NoMemory<Meta>);
static_assert(!IsDevice<Guardless> && !IsDevice<OwnMemory> && !IsDevice<int>);

}  // namespace

TEST_CASE("device: one with the host's memory brings a pool, and nothing else") {
  int live = 0;
  {
    const Third third(live);
    const Third::Current current(third);
    const std::vector<float> numbers{1, 2, 3, 4, 5, 6};
    const auto x = Tensor<float, Third>::from(third, {2, 3}, numbers);
    CHECK(x.to_host() == numbers);
    CHECK(x.narrow_last(1, 2).to_host() == std::vector<float>{2, 3, 5, 6});
    const Tensor<float, Third> y(third, {2, 3});
    copy_on_device(third, y.data(), x.data(), x.bytes());
    x.assign_by([](Index, std::span<float> all) { all[0] = 9; });
    CHECK(x.to_host()[0] == 9);
    CHECK(y.to_host() == numbers);
    CHECK(Tensor<float, Third>::zeros(third, {2}).to_host() == std::vector<float>{0, 0});
    Recorded<Third>()(third, [&] { set_zero(third, y.data(), y.bytes()); });
    CHECK(y.to_host() == std::vector<float>(6, 0.0f));
    CHECK(live > 0);
  }
  CHECK(live == 0);
}

TEST_SUITE_END();
