#include "run_log.hpp"

#include <mtpx/io/file.hpp>

#include <algorithm>
#include <functional>
#include <limits>

namespace program {
namespace {

using mtpx::cat;
using mtpx::Index;
using mtpx::Json;

constexpr std::size_t most_in_row = std::size_t{1} << 20;  // values: loads of many layers of many experts
constexpr std::size_t longest_line = std::size_t{1} << 25;

/// Calls row(value) for every line of a file.
void for_each_row(const std::filesystem::path& path, RunLog& log,
                  const std::function<void(const Checked& row)>& row) {
  const mtpx::InputFile file("report", path);
  std::string rest, piece;
  std::size_t number = 0;
  const auto parse = [&](const std::string& line, bool whole) {
    const std::string place = cat(path.string(), ":", ++number);
    Json value;
    try {
      value = mtpx::parse_json("report", line, place, most_in_row);
    } catch (const mtpx::FileError&) {
      if (whole) throw;
      log.notices.push_back(cat(path.filename().string(), ": line ", number, " is cut off and was left out"));
      return;
    }
    row(Checked(value, cat("[report] ", place)));
  };
  for (Index offset = 0; offset < file.size();) {
    piece.resize(static_cast<std::size_t>(std::min<Index>(file.size() - offset, 1 << 20)));
    file.read(offset, std::as_writable_bytes(std::span(piece)));
    offset += static_cast<Index>(piece.size());
    std::size_t begin = 0;
    for (std::size_t end; (end = piece.find('\n', begin)) != std::string::npos; begin = end + 1) {
      rest.append(piece, begin, end - begin);
      parse(rest, true);
      rest.clear();
    }
    rest.append(piece, begin);
    if (rest.size() > longest_line)
      file.fail(cat("line ", number + 1, " has more than ", longest_line, " bytes"));
  }
  if (!rest.empty()) parse(rest, false);
}

std::uint64_t step_of(const Checked& row) { return row["step"].whole(std::uint64_t{1} << 53); }

/// As many entries as the rows before have, each a number or null.
std::vector<double> heads(const Checked& list, std::size_t& count) {
  std::vector<double> all = list.numbers_or_nan();
  if (count == 0) count = all.size();
  if (all.empty() || all.size() != count)
    list.refuse(cat("must have ", std::max<std::size_t>(count, 1), " numbers"));
  return all;
}

template <typename Row>
void check_order(const std::vector<Row>& rows, const Checked& row) {
  if (!rows.empty() && step_of(row) <= rows.back().step)
    row["step"].refuse(cat("must come behind step ", rows.back().step, ": are these rows of two runs?"));
}

void read_metrics(const Checked& row, std::size_t& count, RunLog& log) {
  if (row.has("loss")) {
    check_order(log.steps, row);
    log.steps.push_back({step_of(row), heads(row["loss"], count), row["total"].number_or_nan(),
                         row["lr"].number_or_nan(), row["lambda"].number_or_nan(),
                         row["gradient_norm"].number_or_nan()});
    if (row.has("tokens_per_s")) log.tokens_per_s[step_of(row)] = row["tokens_per_s"].number_or_nan();
  } else if (row.has("left_out")) {
    log.notices.push_back(cat("step ", step_of(row), " was left out: ", row["left_out"].text()));
  } else {
    check_order(log.evaluations, row);
    LoggedEvaluation& e = log.evaluations.emplace_back();
    e.step = step_of(row);
    e.loss = heads(row["validation_loss"], count);
    e.acceptance = heads(row["acceptance"], count);
    e.agreement = heads(row["agreement"], count);
    e.bits_per_byte = row["bits_per_byte"].number_or_nan();
    if (row.has("sample")) e.sample = row["sample"].text();
    if (row.has("expert_load")) {
      for (const Checked& layer : row["expert_load"].entries()) e.loads.push_back(layer.numbers_or_nan());
    }
  }
}

/// The values of nested objects, each under its keys.
void flatten(const std::string& name, const Json& value, RunLog& log) {
  if (!value.is_object() || value.empty()) {
    log.configuration.emplace_back(name, value.dump());
    return;
  }
  for (const auto& [key, inner] : value.items()) flatten(cat(name, '.', key), inner, log);
}

}  // namespace

RunLog read_run(const std::filesystem::path& folder) {
  RunLog log;
  log.name = folder.string();
  std::size_t count = 0;
  for_each_row(folder / "metrics.jsonl", log, [&](const Checked& row) { read_metrics(row, count, log); });
  if (log.steps.empty() && log.evaluations.empty()) log.notices.push_back("metrics.jsonl: has no rows");
  if (std::filesystem::exists(folder / "times.jsonl")) {
    // What a run wrote after the checkpoint that it was taken up from stands there twice: the last is its
    // own.
    for_each_row(folder / "times.jsonl", log, [&](const Checked& row) {
      if (row.has("tokens_per_s")) log.tokens_per_s[step_of(row)] = row["tokens_per_s"].number_or_nan();
    });
  }
  for (const char* name : {"config", "run"}) {
    const std::filesystem::path path = folder / cat(name, ".json");
    if (!std::filesystem::exists(path)) {
      if (std::string(name) == "config") log.notices.push_back("config.json: is not there");
      continue;
    }
    const mtpx::InputFile file("report", path);
    const Json value = mtpx::parse_json("report", file.read_text(Index{1} << 24), file.path());
    flatten(name, Checked(value, cat("[report] ", file.path())).object(), log);
  }
  return log;
}

}  // namespace program
