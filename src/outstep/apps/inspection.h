#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

// What a file or folder is and holds, for `outstep inspect`. Each function takes a thing of its
// kind and throws DataError saying why it is refused.

namespace outstep::apps {

struct Inspection {
  std::string kind;              // "checkpoint", "safetensors", …
  std::string text;              // a compact table; ends with a line feed
  nlohmann::ordered_json facts;  // the same for programs
};

// Of any kind, told by what it looks like.
Inspection inspect(const std::filesystem::path& path);

Inspection inspect_run(const std::filesystem::path& folder);
Inspection inspect_checkpoint(const std::filesystem::path& folder);  // its hashes are checked
Inspection inspect_model_folder(const std::filesystem::path& folder);
Inspection inspect_safetensors(const std::filesystem::path& path);
Inspection inspect_tokens(const std::filesystem::path& path);
Inspection inspect_trace(const std::filesystem::path& path);
Inspection inspect_metrics(const std::filesystem::path& path);
// One flight record, or all of a folder side by side.
Inspection inspect_flight(const std::filesystem::path& path);

}  // namespace outstep::apps
