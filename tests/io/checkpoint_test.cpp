// Checkpoints: whole or not there, and a run that goes on from one has the bits of one that was not
// interrupted.

#include <mtpx/io/instances.hpp>

#include "io/support.hpp"
#include "support/model.hpp"

#include <fstream>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("checkpoint");

namespace {

namespace fs = std::filesystem;

/// A folder of this test's own, gone behind it.
struct RunFolder {
  fs::path path;
  explicit RunFolder(const char* name = "run")
      : path(fs::temp_directory_path() / cat("mtpx-checkpoint-", ::getpid(), '-', name)) {
    fs::remove_all(path), fs::create_directories(path);
  }
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;
  ~RunFolder() { fs::remove_all(path); }
};

Config run_config(MtpHeads heads) {
  Config c = mixture_config(2);
  c.mtpx_heads = heads;
  return c;
}

HostBatch run_batch(Index n) {
  HostBatch batch{2, 9, {}, {}};
  for (Index i = 0; i < 20; ++i)
    batch.tokens.push_back(static_cast<std::int32_t>(
        Philox::block(5, static_cast<std::uint64_t>(n), static_cast<std::uint64_t>(i))[0] % 11));
  return batch;
}

template <typename T>
struct Training {
  Transformer<T, Cpu> model;
  Trainer<T, Cpu> trainer;

  static TrainOptions options(Index accumulation) {
    TrainOptions o{.steps = 12, .accumulation = accumulation, .lr = {.peak = 1e-2, .warmup = 3}};
    return o;
  }
  Training(MtpHeads heads, bool frozen, Index accumulation)
      : model(made(heads, frozen)), trainer(model, options(accumulation), run_batch) {}

  static Transformer<T, Cpu> made(MtpHeads heads, bool frozen) {
    Transformer<T, Cpu> model(device<Cpu>(), run_config(heads));
    initialize(model, 3);
    if (frozen) model.freeze_main();
    return model;
  }

  /// All that a run is, as bytes.
  std::string bytes() {
    std::string all;
    const auto add = [&](const std::string& name, const auto& tensor) {
      const auto numbers = tensor.to_host();
      all += name;
      all.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(numbers[0]));
    };
    for_each_tensor(model, add);
    trainer.optimizer().for_each_state(model, add);
    return cat(all, trainer.steps_done(), ' ', trainer.optimizer().steps());
  }
  std::string losses(Index steps) {
    std::string all;
    for (Index i = 0; i < steps; ++i) all += cat(trainer.step().total, ' ');
    return all;
  }
  void save(Checkpoints& checkpoints) {
    save_training(checkpoints, trainer, model, {{"seed", 3}}, Json::object(), {},
                  [](Checkpoints::Files& files) { files.text("notes.txt", "ids are random\n"); });
  }
};

template <typename T>
void check_resumes(MtpHeads heads, bool frozen, Index accumulation) {
  CAPTURE(static_cast<int>(heads));
  const RunFolder folder;
  Training<T> whole(heads, frozen, accumulation);
  whole.losses(7);
  {
    Checkpoints checkpoints(folder.path);
    whole.save(checkpoints);
    // The copy is taken: what the run does now does not reach it.
  }
  const std::string later = whole.losses(5);

  const Checkpoints there(folder.path);
  const auto found = there.newest([](const std::string& text) { FAIL(text); });
  REQUIRE(found.has_value());
  CHECK(found->step == 7);
  CHECK(found->run["seed"] == 3);
  Training<T> resumed(heads, frozen, accumulation);
  resumed.losses(2);  // whatever stood there is replaced
  load_training(*found, resumed.trainer, resumed.model);
  CHECK(resumed.trainer.steps_done() == 7);
  CHECK(resumed.losses(5) == later);
  CHECK(resumed.bytes() == whole.bytes());
}

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Writes checkpoints of texts alone.
void save_text(Checkpoints& checkpoints, Index step, const std::string& text = "x") {
  checkpoints.save(step, Json(step), [&](Checkpoints::Files& files) { files.text("a.txt", text); });
  checkpoints.wait();
}

const auto no_notice = [](const std::string& text) { FAIL_CHECK(text); };

}  // namespace

TEST_CASE("checkpoint: a run goes on to the bits of one that was not interrupted") {
  for (const MtpHeads heads :
       {MtpHeads::sequential, MtpHeads::repeated, MtpHeads::parallel, MtpHeads::linear}) {
    check_resumes<float>(heads, false, 1);
  }
  check_resumes<float>(MtpHeads::sequential, true, 2);
  check_resumes<bf16>(MtpHeads::sequential, false, 2);
}

TEST_CASE("checkpoint: it is a model folder, too") {
  const RunFolder folder;
  Training<float> run(MtpHeads::sequential, false, 1);
  run.model.draft_from({0, 3, 9});
  run.losses(1);
  Checkpoints checkpoints(folder.path);
  run.save(checkpoints);
  checkpoints.wait();
  const auto loaded = load_model<float>(device<Cpu>(), folder.path / "step-00000001");
  CHECK(loaded.model.config == run.model.config);
  CHECK(loaded.model.config.mtpx_trained_window == 9);
  CHECK(loaded.model.draft_ids() == std::vector<std::int32_t>{0, 3, 9});
  Training<float> resumed(MtpHeads::sequential, false, 1);
  load_training(*checkpoints.newest(no_notice), resumed.trainer, resumed.model);
  CHECK(resumed.model.draft_ids() == loaded.model.draft_ids());
  CHECK(resumed.model.config == run.model.config);
  CHECK(loaded.model.norm.weight.value().to_host() == run.model.norm.weight.value().to_host());
  CHECK(text_of(folder.path / "latest") == "step-00000001\n");
  CHECK(text_of(folder.path / "step-00000001/notes.txt") == "ids are random\n");
}

TEST_CASE("checkpoint: the newest stay, and those asked for; never none") {
  const RunFolder folder;
  Checkpoints checkpoints(folder.path, {.keep_last = 2, .keep_every = 20});
  for (const Index step : {10, 20, 30, 40, 50}) save_text(checkpoints, step);
  CHECK(checkpoints.steps() == std::vector<Index>{20, 40, 50});
  {
    const RunFolder other("other");
    Checkpoints two(other.path, {.keep_last = 2});
    for (const Index step : {10, 20, 30}) save_text(two, step);
    CHECK(two.steps() == std::vector<Index>{20, 30});
  }
  // Gone back: later ones are of another run from the next save on.
  checkpoints.go_back_to(40);
  CHECK(checkpoints.newest(no_notice)->step == 40);
  save_text(checkpoints, 45);
  CHECK(checkpoints.steps() == std::vector<Index>{20, 40, 45});
  save_text(checkpoints, 45, "again");
  CHECK(text_of(checkpoints.path(45) / "a.txt") == "again");
  checkpoints.clear();
  CHECK(checkpoints.steps().empty());
  CHECK_FALSE(checkpoints.newest(no_notice).has_value());
  CHECK_THROWS_WITH_AS(Checkpoints("x", {.keep_last = 0}), "[checkpoint] keep_last = 0: must be at least 1",
                       ConfigError);
}

TEST_CASE("checkpoint: whatever changes is noticed, and the one before is taken") {
  const RunFolder folder;
  Checkpoints checkpoints(folder.path);
  save_text(checkpoints, 1);
  save_text(checkpoints, 2, "some words");
  const fs::path two = checkpoints.path(2), file = two / "a.txt", manifest = two / "checkpoint.json";
  const std::string words = text_of(file), list = text_of(manifest);
  const auto write = [](const fs::path& path, const std::string& text) { std::ofstream(path) << text; };
  const auto refused = [&](const std::string& cause) {
    CHECK_THROWS_WITH_AS(Checkpoints::open(two), cause.c_str(), FileError);
    std::string heard;
    CHECK(checkpoints.newest([&](const std::string& text) { heard = text; })->step == 1);
    CHECK(heard == cause + "; the one before is taken");
  };
  write(file, "some wordz");
  refused(
      cat("[checkpoint] ", file.string(), ": has changed since it was written: its checksum is another one"));
  write(file, "some");
  refused(cat("[checkpoint] ", file.string(), ": has 4 bytes; 10 were written"));
  fs::remove(file);
  refused(cat("[checkpoint] ", file.string(), ": cannot be opened: No such file or directory"));
  write(file, words);
  CHECK(checkpoints.newest(no_notice)->step == 2);
  std::string changed = list;
  changed.replace(changed.find("\"step\": 2"), 9, "\"step\": 3");
  write(manifest, changed);
  refused(cat("[checkpoint] ", manifest.string(), ": has changed: its checksum is another one"));
  write(manifest, "{}");
  refused(cat("[checkpoint] ", manifest.string(), ": must be an object of checkpoint and xxh64"));
  write(manifest, list);
  CHECK(checkpoints.newest(no_notice)->step == 2);
}

TEST_CASE("checkpoint: a save that fails is heard of, and nothing is lost") {
  const RunFolder folder;
  Checkpoints checkpoints(folder.path);
  save_text(checkpoints, 1);
  // A folder stands where a file of the next one has to go.
  fs::create_directories(fs::path(cat(checkpoints.path(2).string(), ".tmp-", ::getpid())) / "a.txt" / "b");
  checkpoints.save(2, Json(), [](Checkpoints::Files& files) { files.text("a.txt", "x"); });
  CHECK_THROWS_AS(checkpoints.wait(), FileError);
  checkpoints.wait();  // once
  CHECK(checkpoints.steps() == std::vector<Index>{1});
  CHECK(checkpoints.newest(no_notice)->step == 1);
  CHECK_THROWS_AS(checkpoints.require_room(Index{1} << 60), FileError);
  save_text(checkpoints, 2);
  CHECK(checkpoints.newest(no_notice)->step == 2);
}

TEST_CASE("checkpoint: a folder is locked by one") {
  const RunFolder folder;
  std::optional<FolderLock> one(std::in_place, folder.path);
  CHECK_THROWS_WITH_AS(FolderLock(folder.path),
                       cat("[lock] ", folder.path.string(), ": another process writes to it").c_str(),
                       FileError);
  one.reset();
  const FolderLock two(folder.path);
}

TEST_SUITE_END();
