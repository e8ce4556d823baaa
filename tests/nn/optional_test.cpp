#include <mtpx/nn/module.hpp>

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using mtpx::Optional;

/// A part that can only be moved, and is counted.
struct Counted {
  explicit Counted(int number) : value(std::make_unique<int>(number)) { ++alive(); }
  Counted(Counted&&) = delete;
  ~Counted() { --alive(); }
  static int& alive() {
    static int count = 0;
    return count;
  }

  std::unique_ptr<int> value;
};

struct Parts {
  Optional<mtpx::Parameter<float, mtpx::Cpu>> here, absent;

  static void members(auto& self, auto&& visit) {
    visit("here", self.here);
    visit("absent", self.absent);
  }
};

}  // namespace

TEST_CASE("Optional: absent until a part is made, which is dropped once, wherever it went") {
  {
    Optional<Counted> part;
    CHECK(!part.has_value());
    CHECK(*part.emplace(1).value == 1);
    CHECK(*part.emplace(2).value == 2);  // in the place of the other
    CHECK(Counted::alive() == 1);
    const Counted* const where = &*part;
    Optional<Counted> moved(std::move(part));
    CHECK(!part);
    CHECK(&*moved == where);  // parts stay where they are
    part = std::move(moved);
    CHECK(!moved);
    CHECK(*part->value == 2);
    std::vector<Optional<Counted>> several(3);
    several[1].emplace(3);
    several.resize(100);
    CHECK(*std::as_const(several)[1]->value == 3);
    CHECK(Counted::alive() == 2);
    part.reset();
    CHECK(!part);
    CHECK(Counted::alive() == 1);
  }
  CHECK(Counted::alive() == 0);
}

TEST_CASE("Optional: a walk visits the part that is there, and nothing of one that is absent") {
  Parts parts;
  parts.here.emplace(mtpx::Cpu(1), mtpx::Shape{2});
  std::vector<std::string> names;
  mtpx::for_each_parameter(parts, [&](const std::string& name, auto&) { names.push_back(name); });
  CHECK(names == std::vector<std::string>{"here"});
}
