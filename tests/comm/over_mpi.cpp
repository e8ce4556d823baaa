// What tests/comm and tests/train do with ranks that are threads, with ranks that mpirun started. Each of
// them runs all of this.

#include <mtpx/comm/mpi.hpp>

#include "support/group_checks.hpp"
#include "support/pipeline_run.hpp"
#include "support/shared_run.hpp"

using namespace mtpx;
using namespace mtpx::test;

namespace {

const World& world() {
  static const World all = mpi_world();
  return all;
}

}  // namespace

TEST_CASE("MPI: bytes go where they belong") {
  CHECK(world().size() > 1);
  CHECK(world().local_size() == world().size());
  check_group(world().host());
  const std::vector<std::string> texts =
      world().exchange(std::string(static_cast<std::size_t>(world().rank()), 'x'));
  for (std::size_t rank = 0; rank < texts.size(); ++rank) CHECK(texts[rank] == std::string(rank, 'x'));
}

TEST_CASE_TEMPLATE("MPI: ranks have the bytes of one after 20 steps", T, float, double) {
  each_shared_run([](const std::string& name, const SharedRun& run) {
    CAPTURE(name);
    const Everything want = run.on<T>(Group<Cpu>(Cpu(1)));
    check_bits(run.on<T>(world().host()), want);
  });
}

TEST_CASE_TEMPLATE("MPI: ranks that share experts out have the bytes of one after 20 steps", T, float,
                   double) {
  each_shared_run([](const std::string& name, SharedRun run) {
    if (run.config.n_routed_experts == 0) return;
    CAPTURE(name);
    run.config.n_routed_experts = 8;
    // Too little, so that steps are taken again, or enough from the first on.
    run.options.step.expert_room = std::is_same_v<T, double> ? 1 : 4;
    const Everything want = run.on<T>(Group<Cpu>(Cpu(1)));
    run.experts = true;
    check_part(run.on<T>(world().host()), want);
  });
}

TEST_CASE_TEMPLATE("MPI: pipelines have the bytes of one after 20 steps", T, float, double) {
  const auto check = [](const PipelineCase& c, const std::string& layout) {
    CAPTURE(layout);
    CHECK(check_rank(train_rank<T>(c, layout, world().host()), train_alone<T>(c)) > 0);
  };
  PipelineCase c{mixture_config(2), 4};
  c.steps = 20;
  check(c, "Et|ttmmL");  // with four ranks two copies of it
  if (world().size() % 4 == 0) check(c, "Et|t|t|mmL");
  c.config = dense_config(1);
  check(c, "Ett|mL");
  c.config = mixture_config(2);
  c.config.mtpx_heads = MtpHeads::parallel;
  check(c, "Ett|tmmL");
}
