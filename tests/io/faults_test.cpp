// What a save leaves when a system call or an allocation fails, or the process ends, at every place in turn.

#include <mtpx/io/instances.hpp>

#include "io/support.hpp"
#include "support/allocations.hpp"
#include "support/model.hpp"
#include "support/system_calls.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

using namespace mtpx;
using namespace mtpx::test;
using mtpx_test::Folder;

namespace {

using Model = Transformer<float, Cpu>;

/// Two models of one shape, whose configurations and tokenizers differ: weights of one would load with those
/// of the other.
struct Models {
  Model old = random_model<float>(config(100), 1), fresh = random_model<float>(config(200), 2);
  TokenizerFiles old_tokenizer{"old", "old settings"}, fresh_tokenizer{"new", "new settings"};

  void save_old(const Folder& folder) const { save_model(folder.root, old, {}, true, old_tokenizer); }
  void save_fresh(const Folder& folder) const { save_model(folder.root, fresh, {}, true, fresh_tokenizer); }

  static Config config(double rope_theta) {
    Config c = dense_config(1);
    c.num_hidden_layers = 1;
    c.first_k_dense_replace = 2;  // as a model without experts is written
    c.rope_theta = rope_theta;
    return c;
  }
};

bool equal(const Model& a, const Model& b) {
  std::vector<std::vector<float>> numbers[2];
  for (const Model* model : {&a, &b}) {
    for_each_tensor(*model, [&](const std::string&, const auto& tensor) {
      numbers[model == &b].push_back(tensor.to_host());
    });
  }
  return numbers[0] == numbers[1] && a.config == b.config;
}

/// Which of the models the folder holds: "old" or "new"; weights of one with the configuration or the
/// tokenizer of the other are neither.
std::string held(const Folder& folder, const Models& models) {
  const auto loaded = load_model<float>(Cpu(1), folder.root);
  const std::string tokenizer = folder.read(tokenizer_path(folder.root).filename().string());
  if (equal(loaded.model, models.old) && tokenizer == "old") return "old";
  return equal(loaded.model, models.fresh) && tokenizer == "new" ? "new" : "neither";
}

/// How many files there are, but for a tokenizer whose weights did not come, which the next save takes.
std::size_t files_in(const Folder& folder) {
  return folder.files() - std::filesystem::exists(folder.root / "tokenizer.json.new");
}

}  // namespace

TEST_CASE("faults: a save whose N-th system call fails throws, and leaves the old model or the new one") {
  const Models models;
  const Folder folder;
  models.save_old(folder);
  const std::size_t files = files_in(folder);
  fault_at(-1, Fault::none);
  models.save_fresh(folder);
  const int calls = stop_faults();
  CHECK(calls > 20);
  const auto attempt = [&](int call, Fault fault, int error) {
    models.save_old(folder);
    fault_at(call, fault, error);
    const std::string text = folder.error([&] { models.save_fresh(folder); });
    stop_faults();
    CHECK(files_in(folder) == files);
    return text;
  };
  for (int call = 0; call < calls; ++call) {
    CAPTURE(call);
    for (const int error : {ENOSPC, EIO}) {
      const std::string text = attempt(call, Fault::error, error);
      const std::string cause = std::generic_category().message(error);
      CHECK(text.ends_with(cause));
      const bool named = text.starts_with("[safetensors] model.safetensors") ||
                         text.starts_with("[config] config.json: ") || text.starts_with("[tokenizer] ");
      CHECK(named);
      if (text.find("cannot be written") != std::string::npos)
        CHECK(text.find(" bytes were left: ") != std::string::npos);
      const std::string now = held(folder, models);
      CHECK(now != "neither");
      // The new weights are in place, and what failed came after that.
      if (now == "new")
        CHECK((text.starts_with("[config]") || text.starts_with("[tokenizer]") ||
               text.find("is in place") != std::string::npos));
    }
    const std::string interrupted = attempt(call, Fault::error, EINTR);
    if (interrupted.empty()) CHECK(held(folder, models) == "new");
    CHECK(attempt(call, Fault::part, 0) == "");
    CHECK(held(folder, models) == "new");
    const std::string lost = attempt(call, Fault::lost, 0);
    CHECK(held(folder, models) == (lost.empty() ? "new" : "old"));
  }
}

/// Runs `action` in a process of its own; its exit status as waitpid gives it, 1 for an exception.
template <typename Action>
int in_child(const Action& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open("/dev/null", O_WRONLY), STDERR_FILENO);
    std::signal(SIGABRT, SIG_DFL);
    try {
      action();
      ::_exit(0);
    } catch (const std::exception&) {
      ::_exit(1);
    }
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

TEST_CASE("faults: a save that ends the process at a system call leaves the old model or the new one") {
  const Models models;
  const Folder folder;
  int old = 0, fresh = 0;
  for (int call = 0, status = 1; status != 0; ++call) {
    models.save_old(folder);
    status = in_child([&] {
      fault_at(call, Fault::death);
      models.save_fresh(folder);
      stop_faults();
    });
    REQUIRE((status == 0 || WEXITSTATUS(status) == 42));
    const std::string now = held(folder, models);
    CHECK(now != "neither");
    ++(now == "old" ? old : fresh);
    remove_stale(folder.root);
    CHECK(files_in(folder) == 4);
  }
  CHECK(old > 20);
  // Ended before the folder is opened and flushed, config.json renamed, the folder opened and flushed again,
  // tokenizer.json and tokenizer_config.json renamed, the folder opened and flushed; or not at all.
  CHECK(fresh == 10);
}

TEST_CASE("faults: a save whose N-th allocation fails says so, and leaves the old model or the new one") {
  const Models models;
  const Folder folder;
  models.save_old(folder);
  int threw = 0, ended[2] = {};
  for (const bool all : {false, true}) {
    for (std::size_t n = 0, failed = 1; failed != 0; n += 1 + n / 100) {
      const int status = in_child([&] {
        fail_allocation(n, all);
        models.save_fresh(folder);
        if (stop_failing()) ::_exit(2);  // it did without
      });
      failed = status != 0;
      const bool saved = WIFEXITED(status) && WEXITSTATUS(status) != 1;
      threw += WIFEXITED(status) && WEXITSTATUS(status) == 1;
      // The JSON library needs memory to destroy a value, and where there is none ends the process.
      ended[all] += WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
      const std::string now = held(folder, models);
      CAPTURE(n);
      CHECK(now != "neither");
      if (saved) CHECK(now == "new");
      remove_stale(folder.root);
      CHECK(files_in(folder) == 4);
      if (now == "new") models.save_old(folder);
    }
  }
  CHECK(threw > 200);
  CHECK(ended[0] < 10);
}
