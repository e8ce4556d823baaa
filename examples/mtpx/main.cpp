// mtpx: train a multi-token-prediction model on text, and generate with it. One source file a subcommand.

#include "program.hpp"

#include <mtpx/version.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

/// A descriptor that is closed would go to the next file that is opened, and what is printed into that file.
void open_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) == -1) (void)::open("/dev/null", O_RDWR);
  }
}

/// Whether all of `text` is a number of this type, and finite.
template <typename Number>
bool is_number(std::string_view text) {
  Number number{};
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failed == std::errc{} && end == text.data() + text.size() &&
         std::isfinite(static_cast<double>(number));
}

/// What the command line's own checks let through in any option: numbers that are not finite, have a sign
/// where there is none or do not fit their type, and an empty text where a file is asked for.
void check_options(CLI::App& app) {
  const auto rule = [](CLI::Option& option, const auto& holds, const char* text) {
    option.check(CLI::Validator(
        [=](std::string& given) {
          return holds(given) ? std::string() : mtpx::cat("must be ", text, ", not '", given, "'");
        },
        ""));
  };
  for (CLI::App* command : app.get_subcommands({})) {
    for (CLI::Option* option : command->get_options()) {
      const std::string type = option->get_type_name(), name = option->get_name();
      if (type.starts_with("FLOAT")) rule(*option, is_number<double>, "a finite number");
      if (type.starts_with("UINT"))
        rule(*option, is_number<std::uint64_t>, "a whole number from 0 to 2^64 - 1");
      if (type.starts_with("INT")) rule(*option, is_number<std::int64_t>, "a whole number");
      if (type.starts_with("TEXT") && name != "--prompt")
        rule(
            *option, [](const std::string& given) { return !given.empty(); }, "given");
    }
  }
}

int fail(int code, const char* what) {
  std::cerr << "mtpx: " << what << '\n';
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe shows as a failed write, and ends the run quietly
  program::tell_of_lost_pages();
  CLI::App app{"mtpx: multi-token prediction in C++, after DeepSeek-V3"};
  app.set_version_flag("--version",
                       mtpx::cat(MTPX_VERSION_MAJOR, '.', MTPX_VERSION_MINOR, '.', MTPX_VERSION_PATCH));
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 2 usage or configuration, 3 bad input, 4 output not written, 5 not finite, 6 out of "
      "memory, 7 no such device, 8 another process of the run is gone.");
  program::add_train(app);
  program::add_distill(app);
  program::add_generate(app);
  program::add_chat(app);
  program::add_score(app);
  program::add_bench(app);
  program::add_compare(app);
  program::add_report(app);
  program::add_plan(app);
  program::add_tokenize(app);
  program::add_convert(app);
  program::add_quantize(app);
  program::add_launch(app);
  check_options(app);
  try {
    app.parse(argc, argv);
    (void)program::written();
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
  } catch (const mtpx::CommError& error) {
    return fail(program::peer_gone, error.what());
  } catch (const mtpx::OutOfMemory& error) {
    return fail(program::out_of_memory, error.what());
  } catch (const mtpx::Error& error) {
    return fail(program::device_failed, error.what());
  } catch (const std::bad_alloc& error) {
    const std::string what = error.what();
    return fail(
        program::out_of_memory,
        mtpx::cat(what == "std::bad_alloc" ? "out of memory" : what, "; lower --batch or --seq").c_str());
  } catch (const std::length_error&) {
    return fail(program::out_of_memory, "out of memory: more than can be addressed was asked for");
  } catch (const std::filesystem::filesystem_error& error) {
    return fail(program::bad_input, error.what());
  } catch (const std::exception& error) {
    return fail(program::device_failed, error.what());
  }
}
