#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "outstep/apps/inspection.h"
#include "outstep/apps/table.h"
#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/data/token_file.h"
#include "outstep/io/files.h"
#include "outstep/io/json.h"
#include "outstep/io/safetensors.h"

namespace outstep::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShownTensors = 40;
constexpr size_t kShownLines = 12;

Json parse_object(const std::filesystem::path& path, const std::string& text) {
  const Json json = io::parse_json(text, path.string());
  if (!json.is_object()) throw DataError("{}: not a JSON object", path.string());
  return json;
}

std::string cell(const Json& value) {
  if (value.is_number_float()) return fmt::format("{:.5g}", value.get<double>());
  if (value.is_string()) return value.get<std::string>();
  return value.is_null() ? "-" : value.dump();
}

// Some of many: the first, the last, and evenly between.
template <typename T>
std::vector<T> some_of(const std::vector<T>& all, size_t most) {
  if (all.size() <= most) return all;
  std::vector<T> chosen;
  for (size_t i = 0; i < most; ++i) chosen.push_back(all[i * (all.size() - 1) / (most - 1)]);
  return chosen;
}

// Keys that a person looks for first; all of them are in the file.
std::string lines_table(const std::vector<Json>& lines, const std::vector<std::string>& keys) {
  Table table{.header = {"step"}, .rows = {}};
  for (const std::string& key : keys) {
    const bool is_there = std::any_of(lines.begin(), lines.end(),
                                      [&](const Json& line) { return line.contains(key); });
    if (is_there) table.header.push_back(key);
  }
  for (const Json& line : some_of(lines, kShownLines)) {
    std::vector<std::string> row{cell(line.at("step"))};
    for (size_t i = 1; i < table.header.size(); ++i) {
      row.push_back(line.contains(table.header[i]) ? cell(line.at(table.header[i])) : "-");
    }
    table.rows.push_back(std::move(row));
  }
  return table.text();
}

struct SpanTotal {
  int64_t count = 0;
  double seconds = 0;
  double longest = 0;
};

// By track and name. Throws Json::exception for an event that lacks something or has another type.
std::map<std::pair<std::string, std::string>, SpanTotal> add_up_spans(const Json& events) {
  std::map<int64_t, std::string> tracks;
  for (const Json& event : events) {
    if (event.value("name", "") == "thread_name") {
      tracks[event.value("tid", int64_t{0})] = event.at("args").value("name", "");
    }
  }
  std::map<std::pair<std::string, std::string>, SpanTotal> totals;
  for (const Json& event : events) {
    if (event.value("ph", "") != "X") continue;
    SpanTotal& total = totals[{tracks[event.value("tid", int64_t{0})], event.value("name", "")}];
    const double seconds = event.value("dur", 0.0) / 1e6;
    ++total.count;
    total.seconds += seconds;
    total.longest = std::max(total.longest, seconds);
  }
  return totals;
}

}  // namespace

Inspection inspect_safetensors(const std::filesystem::path& path) {
  const io::Safetensors file(path);
  Table table{.header = {"tensor", "type", "shape", "size"}, .rows = {}};
  Json tensors = Json::array();
  int64_t num_elements = 0;
  int64_t num_bytes = 0;
  for (const auto& [name, info] : file.tensors()) {
    const auto bytes = static_cast<int64_t>(info.end - info.begin);
    int64_t elements = 1;
    for (int64_t size : info.shape) elements *= size;
    num_elements += elements;
    num_bytes += bytes;
    const std::string shape = fmt::format("[{}]", fmt::join(info.shape, ", "));
    if (table.rows.size() < kShownTensors) {
      table.rows.push_back({name, at::toString(info.dtype), shape, human_bytes(bytes)});
    }
    tensors.push_back({{"name", name},
                       {"dtype", at::toString(info.dtype)},
                       {"shape", info.shape},
                       {"bytes", bytes}});
  }
  Inspection inspection{.kind = "safetensors", .text = "", .facts = {}};
  inspection.text =
      fmt::format("{}  safetensors · {} tensors · {} elements · {}\n", path.string(),
                  file.tensors().size(), with_commas(num_elements), human_bytes(num_bytes));
  for (const auto& [key, value] : file.metadata()) {
    inspection.text += fmt::format("{} = {}\n", key, value);
  }
  inspection.text += "\n" + table.text();
  if (file.tensors().size() > kShownTensors) {
    inspection.text += fmt::format("… and {} more\n", file.tensors().size() - kShownTensors);
  }
  inspection.facts = {{"elements", num_elements},
                      {"bytes", num_bytes},
                      {"metadata", file.metadata()},
                      {"tensors", tensors}};
  return inspection;
}

Inspection inspect_tokens(const std::filesystem::path& path) {
  const data::TokenFileInfo info = data::inspect_token_file(path);
  const data::TokenRow row = data::open_token_file(path);
  std::vector<int64_t> first(static_cast<size_t>(std::min<int64_t>(info.num_tokens, 8)));
  row.read(0, first);
  int64_t largest = 0;
  std::vector<int64_t> chunk;
  for (int64_t begin = 0; begin < row.size(); begin += int64_t{1} << 16) {
    chunk.resize(static_cast<size_t>(std::min<int64_t>(int64_t{1} << 16, row.size() - begin)));
    row.read(begin, chunk);
    largest = std::max(largest, *std::max_element(chunk.begin(), chunk.end()));
  }
  return {.kind = "tokens",
          .text = fmt::format("{}  {} · {} tokens · ids from 0 to {}\nbegins {}\n", path.string(),
                              data::token_format_name(info.format), with_commas(info.num_tokens),
                              largest, fmt::join(first, " ")),
          .facts = {{"format", data::token_format_name(info.format)},
                    {"tokens", info.num_tokens},
                    {"largest_id", largest}}};
}

Inspection inspect_trace(const std::filesystem::path& path) {
  const Json json = parse_object(path, io::read_text(path));
  if (!json.contains("traceEvents") || !json["traceEvents"].is_array()) {
    throw DataError("{}: no \"traceEvents\" in it, so it is no trace", path.string());
  }
  std::map<std::pair<std::string, std::string>, SpanTotal> totals;
  try {
    totals = add_up_spans(json["traceEvents"]);
  } catch (const Json::exception& error) {
    throw DataError("{}: no trace: {}", path.string(), error.what());
  }
  Inspection inspection{.kind = "trace", .text = "", .facts = {}};
  Table table{.header = {"track", "span", "count", "total", "mean", "longest"}, .rows = {}};
  Json spans = Json::array();
  for (const auto& [key, total] : totals) {
    const double mean = total.seconds / static_cast<double>(total.count);
    table.rows.push_back({key.first, key.second, std::to_string(total.count),
                          human_seconds(total.seconds), human_seconds(mean),
                          human_seconds(total.longest)});
    spans.push_back({{"track", key.first},
                     {"span", key.second},
                     {"count", total.count},
                     {"seconds", total.seconds},
                     {"longest_seconds", total.longest}});
  }
  inspection.text = fmt::format("{}  trace; open it in https://ui.perfetto.dev\n\n{}",
                                path.string(), table.text());
  inspection.facts = {{"spans", spans}};
  return inspection;
}

Inspection inspect_metrics(const std::filesystem::path& path) {
  std::map<std::string, std::vector<Json>> kinds;
  std::istringstream lines(io::read_text(path));
  int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    Json json = io::try_parse_json(line);
    if (!json.is_object() || !json.contains("kind") || !json["kind"].is_string() ||
        !json.contains("step")) {
      if (lines.peek() == std::istringstream::traits_type::eof()) break;  // its writer was killed
      throw DataError("{}:{}: not a line of metrics (an object with \"kind\" and \"step\")",
                      path.string(), number);
    }
    kinds[json["kind"].get<std::string>()].push_back(std::move(json));
  }
  if (kinds.empty()) throw DataError("{}: no line of metrics in it", path.string());
  Inspection inspection{.kind = "metrics", .text = "", .facts = {}};
  inspection.text = fmt::format("{}  metrics\n", path.string());
  Json counts;
  for (const auto& [kind, its_lines] : kinds) counts[kind] = its_lines.size();
  inspection.facts = {{"lines", counts}};
  if (kinds.contains("train")) {
    inspection.text +=
        "\n" +
        lines_table(kinds["train"], {"loss", "lr", "grad_norm", "tokens_per_second",
                                     "samples_per_second", "overlap_fraction", "step_seconds"});
    inspection.facts["last_train"] = kinds["train"].back();
  }
  if (kinds.contains("validation")) {
    inspection.text += "\n" + lines_table(kinds["validation"], {"validation_loss", "accuracy"});
    inspection.facts["last_validation"] = kinds["validation"].back();
  }
  return inspection;
}

}  // namespace outstep::apps
