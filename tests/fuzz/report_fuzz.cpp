// libFuzzer: any bytes as a report.json are drawn, or refused in one line that names the file. See
// targets.hpp for what else is held to such promises, tests/fuzz/CMakeLists.txt for how to run it;
// tests/program/report_test.sh replays the corpus.

#include "targets.hpp"

#include "../../examples/mtpx/report.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using mtpx_test::must;
  const std::string text(data, data + size);
  try {
    mtpx::Json report = mtpx::parse_json("compare", text, "report.json");
    const std::string place = "[compare] report.json";
    mtpx::Json found = program::claims(program::Checked(report, place)["tables"][0]);
    report["claims"] = std::move(found);
    const program::Checked checked(report, place);
    const std::string page = program::report_html(checked);
    must(page.find("nan") == std::string::npos || text.find("nan") != std::string::npos, "drawn are numbers");
    must(page.find("<script") == std::string::npos, "names are escaped");
    must(!program::report_text(checked).empty() || report["tables"].empty(), "tables have a text");
    must(!program::report_figures(checked).empty(), "there are drawings");
  } catch (const mtpx::FileError& error) {
    const std::string_view said = error.what();
    must(said.starts_with("[compare] report.json: "), "errors name the file");
    must(said.find('\n') == std::string_view::npos, "errors have one line");
  }
  return 0;
}
