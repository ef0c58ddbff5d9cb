#include <algorithm>

#include "outstep/base/errors.h"
#include "outstep/nn/revnet.h"

// The two ways to describe a RevNet: a recipe's [model] and the config.json of a folder we wrote.

namespace outstep::nn {
namespace {

constexpr size_t kMaxBlocks = 1000;

// Why a list makes no RevNet; empty: it makes one.
std::string complaint_about(const std::vector<std::string>& blocks, const std::string& kind) {
  if (blocks.size() < 2 || blocks.front() != "stem" || blocks.back() != "head") {
    return "must begin with \"stem\" and end with \"head\"";
  }
  if (blocks.size() > kMaxBlocks) return fmt::format("has more than {} blocks", kMaxBlocks);
  int num_down = 0;
  for (size_t i = 1; i + 1 < blocks.size(); ++i) {
    const std::string& block = blocks[i];
    if (block != "rev" && block != "down" && block != "widen") {
      return fmt::format(
          "holds \"{}\"; between stem and head it takes \"rev\", \"down\" and "
          "\"widen\"",
          block);
    }
    if (block == "widen" && kind != "bottleneck") {
      return "holds \"widen\", which is for kind \"bottleneck\"";
    }
    if (block != "rev" && ++num_down > 16) return "changes the shape more than 16 times";
  }
  return "";
}

// blocks[i] reversible blocks follow the i-th change of shape.
std::vector<std::string> list_of(const std::vector<int>& reversible, bool widens) {
  std::vector<std::string> blocks = {"stem"};
  for (size_t i = 0; i < reversible.size(); ++i) {
    if (i > 0) blocks.emplace_back("down");
    if (i == 0 && widens) blocks.emplace_back("widen");
    blocks.insert(blocks.end(), static_cast<size_t>(reversible[i]), "rev");
  }
  blocks.emplace_back("head");
  return blocks;
}

}  // namespace

RevNetOptions RevNetOptions::of_depth(int depth) {
  RevNetOptions options;
  if (depth == 50) options.kind = "bottleneck";
  options.blocks = depth == 18   ? list_of({2, 1, 1, 1}, false)
                   : depth == 34 ? list_of({3, 3, 5, 2}, false)
                                 : list_of({2, 3, 5, 2}, true);
  return options;
}

void RevNetOptions::require_takes(const ModelFacts& facts, const OriginOf& origin_of) const {
  require_takes_images("revnet", {.in_channels = in_channels, .num_classes = num_classes}, facts,
                       origin_of);
}

RevNetOptions RevNetOptions::read(io::Section& section, int depth, const ModelFacts& facts) {
  RevNetOptions options = depth > 0 ? of_depth(depth) : RevNetOptions{};
  if (depth == 0) {
    options.kind = section.text("kind", options.kind, {.choices = {"basic", "bottleneck"}});
    options.blocks = section.texts("blocks", options.blocks);
    const std::string complaint = complaint_about(options.blocks, options.kind);
    if (!complaint.empty()) {
      throw ConfigError("{}: model.blocks {}", section.origin("blocks"), complaint);
    }
  }
  read_image_keys(section, facts, options);
  return options;
}

RevNetOptions RevNetOptions::from_config(const nlohmann::ordered_json& config,
                                         const std::string& origin) {
  const ConfigValues values(config, origin);
  RevNetOptions options;
  options.kind = values.one_of<std::string>("kind", options.kind, {"basic", "bottleneck"});
  options.blocks = values.texts("blocks", options.blocks);
  const std::string complaint = complaint_about(options.blocks, options.kind);
  if (!complaint.empty()) throw DataError("{}: \"blocks\" {}", origin, complaint);
  read_image_keys(values, options);
  return options;
}

nlohmann::ordered_json RevNet::config() const {
  nlohmann::ordered_json config;
  config["model_type"] = "outstep_revnet";
  config["kind"] = options_.kind;
  config["blocks"] = options_.blocks;
  write_image_keys(config, options_);
  return config;
}

}  // namespace outstep::nn
