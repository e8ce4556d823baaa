#include <mtpx/train/layout.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/train/layout.hpp");

namespace {

std::string refusal(const std::string& layout) {
  return error_text<ConfigError>([&] { Layout::parse(layout); });
}

}  // namespace

TEST_CASE("Layout: letters, repeats, groups; to text and back") {
  const auto same = [](const char* written, const char* plain, const char* shown) {
    CAPTURE(written);
    const Layout layout = Layout::parse(written);
    CHECK(layout == Layout::parse(plain));
    CHECK(layout.text() == shown);
    CHECK(Layout::parse(layout.text()) == layout);
  };
  same("Et*4|t*4|t*4|mL", "Etttt|tttt|tttt|mL", "Etttt|tttt|tttt|mL");
  same("E(tt|)*3 t*2, m , L", "Ett|tt|tt|ttmL", "Ett|tt|tt|ttmL");
  same("Et (t (t | ) * 2) * 2 L", "Ettt|t|tt|t|L", "Ettt|t|tt|t|L");
  same("E|t * 12|m*2L", "E|tttttttttttt|mmL", "E|t*12|mmL");
  same("EL", "EL", "EL");
  same("E()*3tL", "EtL", "EtL");
}

TEST_CASE("Layout: stages and slices") {
  const Layout layout = Layout::parse("E|ttt|tmmL");
  CHECK(layout.stages() == 3);
  CHECK(layout.layers() == 4);
  CHECK(layout.stage(0) == Layout::Stage{true, 0, 0, false});
  CHECK(layout.stage(2) == Layout::Stage{false, 1, 2, true});
  CHECK(layout.slice(0) == ModelSlice{true, 0, 0, false});
  CHECK(layout.slice(1) == ModelSlice{false, 0, 3, false});
  CHECK(layout.slice(2) == ModelSlice{false, 3, 4, true});
  CHECK(Layout::of_counts({0, 3, 1}, 2) == layout);
  CHECK(Layout::parse("EtttmL").slice(0) == ModelSlice::whole(3));
}

TEST_CASE("Layout: what cannot be names its place") {
  const std::pair<const char*, const char*> refused[] = {
      {"", "place 1: it begins with E, the embedding"},
      {"tE", "place 1: it begins with E, the embedding"},
      {"|EtL", "place 1: it begins with E, the embedding"},
      {"Et|EtL", "place 4: a second E"},
      {"Et|t", "place 5: it ends with L, the output head"},
      {"EtL|t", "place 4: nothing follows L, the output head"},
      {"EtLL", "place 4: a second L"},
      {"Et||tL", "place 4: the stage before it has nothing"},
      {"Etm|L", "place 4: m and L stand in one stage: depths read the output head"},
      {"Etm|mL", "place 4: m and L stand in one stage: depths read the output head"},
      {"EmtL", "place 3: a layer behind a depth: all t come before all m"},
      {"Etx|L", "place 3: 'x' is none of E, t, m, L, |, (, ), * and a comma"},
      {"Et3L", "place 3: '3' is none of E, t, m, L, |, (, ), * and a comma"},
      {"Et*L", "place 3: * needs a number behind it, at least 1"},
      {"Et*0L", "place 3: * needs a number behind it, at least 1"},
      {"E(t|L", "place 2: a ( without its )"},
      {"Et)L", "place 3: a ) without its ("},
      {"Et*99999999999999999999L", "place 2: more than 65536 symbols"},
      {"E(((t*300)*300)*300)L", "place 4: more than 65536 symbols"},
      {"(Et)*2L", "place 2: a second E"}};
  for (const auto& [text, why] : refused) CHECK(refusal(text) == cat("[layout] \"", text, "\", ", why));
  CHECK(refusal(std::string(70, '(')).find("place 65: groups stand too deep in groups") != std::string::npos);
}

TEST_CASE("Layout: checked against a configuration, all rules at once") {
  const auto refused = [](const Config& config, const char* text) {
    return error_text<ConfigError>([&] { Layout::parse(text).check(config); });
  };
  Config config = mixture_config(2);  // three layers
  CHECK(refused(config, "Et|ttmmL") == "");
  CHECK(refused(config, "EtttmmL") == "");
  CHECK(refused(config, "Et|tmL") ==
        "[layout] \"Et|tmL\" is none of this model\n"
        "  2 t, num_hidden_layers = 3: a t for every layer\n"
        "  1 m, num_nextn_predict_layers = 2: an m for every depth");
  config.tie_word_embeddings = true;
  CHECK(refused(config, "EtttmmL") == "");
  CHECK(refused(config, "Ettt|mmL") ==
        "[layout] \"Ettt|mmL\" is none of this model\n"
        "  tie_word_embeddings = true: the first stage and the last would both own that matrix");
  config.tie_word_embeddings = false;
  config.mtpx_heads = MtpHeads::parallel;
  CHECK(refused(config, "Ett|tmmL") == "");
  CHECK(refused(config, "Ettt|mmL") ==
        "[layout] \"Ettt|mmL\" is none of this model\n"
        "  the last stage has 0 t: depths that do not chain read the state before the last 1 layer, which "
        "stands with them");
  config.set_depths(0, MtpHeads::parallel);
  CHECK(refused(config, "Ettt|L") == "");
}
