// mtpx: train a multi-token-prediction model on text, and generate with it. One source file a subcommand.

#include "program.hpp"

#include <mtpx/version.hpp>

#include <csignal>
#include <iostream>
#include <new>

namespace {

int fail(int code, const char* what) {
  std::cerr << "mtpx: " << what << '\n';
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe shows as a failed write, and ends the run quietly
  CLI::App app{"mtpx: multi-token prediction in C++, after DeepSeek-V3"};
  app.set_version_flag("--version",
                       mtpx::cat(MTPX_VERSION_MAJOR, '.', MTPX_VERSION_MINOR, '.', MTPX_VERSION_PATCH));
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 2 usage or configuration, 3 bad input, 4 output not written, 5 not finite, 6 out of "
      "memory, 7 no such device.");
  program::add_train(app);
  program::add_generate(app);
  program::add_score(app);
  program::add_bench(app);
  program::add_compare(app);
  program::add_report(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& done) {  // --help, --version
    return app.exit(done);
  } catch (const CLI::RuntimeError& ended) {
    return ended.get_exit_code();
  } catch (const CLI::ParseError& error) {
    return fail(program::usage, error.what());
  } catch (const mtpx::ConfigError& error) {
    return fail(program::usage, error.what());
  } catch (const program::OutputError& error) {
    return fail(program::output_failed, error.what());
  } catch (const mtpx::FileError& error) {
    return fail(program::bad_input, error.what());
  } catch (const mtpx::NumericError& error) {
    return fail(program::not_finite, error.what());
  } catch (const mtpx::OutOfMemory& error) {
    return fail(program::out_of_memory, error.what());
  } catch (const mtpx::Error& error) {
    return fail(program::device_failed, error.what());
  } catch (const std::bad_alloc&) {
    return fail(program::out_of_memory, "out of memory; lower --batch or --seq");
  }
}
