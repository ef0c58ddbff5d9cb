#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>

#include "outstep/apps/commands.h"
#include "outstep/apps/inspection.h"
#include "outstep/apps/places.h"
#include "outstep/apps/printable.h"
#include "outstep/apps/screen.h"
#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/comm/flight_report.h"
#include "outstep/train/run_folder.h"

namespace outstep::apps {
namespace {

namespace fs = std::filesystem;

// The first bytes of a file.
std::string head_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw DataError("{}: cannot be read", path.string());
  std::array<char, 512> bytes{};
  file.read(bytes.data(), bytes.size());
  return {bytes.data(), static_cast<size_t>(file.gcount())};
}

bool is_text(const std::string& head) {
  return std::none_of(head.begin(), head.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 && std::isspace(byte) == 0;
  });
}

// Length of the header in 8 bytes, then a JSON object; or at least the name.
bool looks_like_safetensors(const fs::path& path, const std::string& head) {
  return path.extension() == ".safetensors" || (head.size() > 9 && head[8] == '{' && head[7] == 0);
}

Inspection inspect_file(const fs::path& path) {
  const std::string head = head_of(path);
  const std::string name = path.filename().string();
  if (looks_like_safetensors(path, head)) return inspect_safetensors(path);
  if (name.starts_with("flight") && path.extension() == ".json") return inspect_flight(path);
  if (path.extension() == ".jsonl") return inspect_metrics(path);
  if (path.extension() == ".json" && head.find("\"traceEvents\"") != head.npos) {
    return inspect_trace(path);
  }
  if (path.extension() == ".bin") return inspect_tokens(path);
  if (path.extension() == ".toml") {
    throw DataError("{} is a recipe; see what it would do with: {} plan {}", path.string(),
                    program_as_typed(), path.string());
  }
  throw DataError(
      "{}: {} of {}; inspect knows runs, checkpoints, models, safetensors, token files (.bin), "
      "traces, flight records and metrics (.jsonl)",
      path.string(), is_text(head) ? "text" : "a binary file",
      human_bytes(static_cast<int64_t>(fs::file_size(path))));
}

int run(const std::string& path, const Invocation& invocation) {
  Screen screen({.json = invocation.wants_json()});
  const Inspection inspection = inspect(path);
  // Names and texts are the file's.
  if (!invocation.wants_json()) screen.write(printable(inspection.text));
  nlohmann::ordered_json object{{"path", path}, {"kind", inspection.kind}};
  object.update(inspection.facts);
  screen.result(object);
  return 0;
}

}  // namespace

Inspection inspect(const fs::path& path) {
  if (!fs::exists(path)) throw DataError("{}: no such file or folder", path.string());
  if (fs::is_regular_file(path)) return inspect_file(path);
  if (!fs::is_directory(path)) throw DataError("{}: neither a file nor a folder", path.string());
  const bool is_run = fs::is_directory(path / "checkpoints");
  if (!is_run && !comm::flight_records_in(path).empty()) return inspect_flight(path);
  switch (train::folder_kind(path)) {
    case train::FolderKind::run:
      return inspect_run(path);
    case train::FolderKind::checkpoint:
      return inspect_checkpoint(path);
    case train::FolderKind::model:
      return inspect_model_folder(path);
  }
  throw InternalError("a folder of no kind");
}

void add_inspect(Invocation& invocation) {
  auto path = std::make_shared<std::string>();
  CLI::App& command = invocation.add_command(
      {.name = "inspect",
       .summary = "Say what a file or folder is and what is in it, or why it is refused",
       .examples = "outstep inspect runs/quickstart-20261122-101500\n"
                   "outstep inspect runs/quickstart-20261122-101500/checkpoints/step-00000400\n"
                   "outstep inspect model.safetensors"});
  command
      .add_option(
          "path", *path,
          "A run, checkpoint, model folder, safetensors or token file, trace, flight record "
          "or metrics")
      ->required();
  invocation.takes_json(command);
  invocation.on_run(command, [path, &invocation] { return run(*path, invocation); });
}

}  // namespace outstep::apps
