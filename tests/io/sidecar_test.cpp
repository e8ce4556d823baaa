#include <mtpx/io/sidecar.hpp>

#include <mtpx/model/with_depths.hpp>

#include "io/folders.hpp"

using namespace folder_test;

TEST_SUITE_BEGIN("mtpx/io/sidecar.hpp");

TEST_CASE("save_sidecar, load_joined_model: depths apart, whatever depths the main model's folder has") {
  const Folder folder;
  const auto main = random_model<float>(mixture_config(1), 1);
  save_model(folder.root / "main", main);
  save_model(folder.root / "bare", main, Json::object(), false);
  const std::string fingerprint = main_fingerprint(folder.root / "main");
  CHECK(main_fingerprint(folder.root / "bare") == fingerprint);
  const std::string before = folder.read("main/model.safetensors");

  Config c = mixture_config(3);
  c.mtpx_own_heads = {2};
  c.mtp_hidden = MtpHidden::pre_norm;
  Transformer<float, Cpu> trained(device(), c);
  randomize(trained, 2);
  for_each_tensor(main, [&](const std::string& name, const auto& from) {
    for_each_tensor(trained, [&](const std::string& other, const auto& to) {
      if constexpr (std::is_same_v<decltype(to), decltype(from)>) {
        if (name == other && !name.starts_with("model.layers.3.")) to.assign(from.to_host());
      }
    });
  });
  trained.draft_from({1, 5});
  std::filesystem::create_directory(folder.root / "side");
  save_sidecar(folder.root / "side", trained, fingerprint);
  const SafeTensors side = SafeTensors::open(folder.root / "side" / "mtp.safetensors");
  for (const SafeTensorsEntry& tensor : side.tensors())
    CHECK(((tensor.name > "model.layers.3" && tensor.name < "model.layers.6") ||
           tensor.name == "mtpx.draft_ids"));
  for (const char* name : {"main", "bare"}) {
    const auto joined = load_joined_model<float>(device(), folder.root / name, folder.root / "side").model;
    CHECK(tensors(joined) == tensors(trained));
    CHECK(joined.config == trained.config);
    CHECK(joined.draft_ids() == trained.draft_ids());
    CHECK(read_joined_config(folder.root / name, folder.root / "side" / "mtp.safetensors").config ==
          trained.config);
  }
  CHECK(folder.read("main/model.safetensors") == before);

  // Of another main model, by one number; and of another kind of file.
  rewrite(folder.root / "bare" / "model.safetensors",
          [](Tensors& all) { all["model.norm.weight"].second[3] += 1; });
  const std::string others = main_fingerprint(folder.root / "bare", {.verify = false});
  CHECK(others != fingerprint);
  const auto join = [&](const char* file, bool verify) {
    return folder.error([&] {
      load_joined_model<float>(device(), folder.root / "bare", folder.root / file, {.verify = verify});
    });
  };
  CHECK(join("side/mtp.safetensors", true) ==
        cat("[sidecar] side/mtp.safetensors: was made for the main model ", fingerprint,
            "; bare/model.safetensors is another one, ", others, "; --no-verify joins them all the same"));
  CHECK_NOTHROW(
      load_joined_model<float>(device(), folder.root / "bare", folder.root / "side", {.verify = false}));
  CHECK(join("main/model.safetensors", true) ==
        "[sidecar] main/model.safetensors: is no sidecar: its metadata has no \"config\" and \"mtpx_main\"");
}

TEST_SUITE_END();
