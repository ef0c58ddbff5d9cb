#include "outstep/apps/inspection.h"

#include <fmt/format.h>

#include "outstep/apps/places.h"
#include "outstep/apps/table.h"
#include "outstep/base/text.h"
#include "outstep/comm/flight_report.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/hugging_face.h"
#include "outstep/train/checkpoint.h"
#include "outstep/train/manifest.h"
#include "outstep/train/metrics.h"

namespace outstep::apps {
namespace {

namespace fs = std::filesystem;

std::string loss_cell(const std::optional<double>& loss) {
  return loss ? fmt::format("{:.4f}", *loss) : "-";
}

}  // namespace

Inspection inspect_run(const fs::path& folder) {
  Inspection inspection{.kind = "run", .text = "", .facts = {}};
  Table table{.header = {"checkpoint", "step", "validation loss"}, .rows = {}};
  nlohmann::ordered_json checkpoints = nlohmann::ordered_json::array();
  for (const train::CheckpointInfo& info : train::list_checkpoints(folder)) {
    table.rows.push_back({info.folder.filename().string(), std::to_string(info.step),
                          loss_cell(info.validation_loss)});
    checkpoints.push_back({{"folder", info.folder.string()}, {"step", info.step}});
    if (info.validation_loss) checkpoints.back()["validation_loss"] = *info.validation_loss;
  }
  inspection.facts["checkpoints"] = checkpoints;
  inspection.text = fmt::format("{}  run\n\n{}", folder.string(),
                                table.rows.empty() ? "no complete checkpoint\n" : table.text());
  if (const fs::path metrics = train::metrics_path(folder, 0); fs::exists(metrics)) {
    Inspection its_metrics = inspect_metrics(metrics);
    inspection.text += "\n" + its_metrics.text;
    inspection.facts["metrics"] = std::move(its_metrics.facts);
  }
  if (!comm::flight_records_in(folder).empty()) {
    Inspection flight = inspect_flight(folder);
    inspection.text += "\n" + flight.text;
    inspection.facts["flight"] = std::move(flight.facts);
  }
  return inspection;
}

Inspection inspect_flight(const fs::path& path) {
  const auto files =
      fs::is_directory(path) ? comm::flight_records_in(path) : std::vector<fs::path>{path};
  comm::FlightReport report = comm::report_flights(files);
  return {.kind = "flight",
          .text = fmt::format("{}  flight {}\n\n{}", path.string(),
                              files.size() == 1 ? "record" : "records", report.text),
          .facts = std::move(report.json)};
}

Inspection inspect_checkpoint(const fs::path& folder) {
  const train::Manifest manifest = train::Manifest::read(folder);
  manifest.verify(folder);
  Table table{.header = {"file", "size", "SHA-256"}, .rows = {}};
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  for (const auto& file : manifest.files) {
    table.rows.push_back({file.name, human_bytes(file.num_bytes), file.sha256.substr(0, 16) + "…"});
    files.push_back({{"name", file.name}, {"bytes", file.num_bytes}, {"sha256", file.sha256}});
  }
  const bool is_complete = fs::exists(folder / "DONE");
  Inspection inspection{.kind = "checkpoint", .text = "", .facts = {}};
  inspection.text = fmt::format(
      "{}  checkpoint of step {} · {} · validation loss {} · every file as it was saved{}\n\n{}",
      folder.string(), with_commas(manifest.step), manifest.mesh.describe(),
      loss_cell(manifest.validation_loss),
      is_complete ? "" : ", but there is no DONE: it was never finished", table.text());
  inspection.facts = {{"step", manifest.step},
                      {"mesh", manifest.mesh.describe()},
                      {"is_complete", is_complete},
                      {"files", files}};
  if (manifest.validation_loss) inspection.facts["validation_loss"] = *manifest.validation_loss;
  return inspection;
}

Inspection inspect_model_folder(const fs::path& folder) {
  const auto model = nn::read_model(folder);
  nn::FlatParams params(*model, /*seed=*/0);
  nn::load_folder(folder, *model, params);
  Table table{.header = {"key", "value"}, .rows = {}};
  const nlohmann::ordered_json config = model->config();
  for (const auto& [key, value] : config.items()) {
    table.rows.push_back({key, value.is_string() ? value.get<std::string>() : value.dump()});
  }
  Inspection inspection{.kind = "model", .text = "", .facts = {}};
  inspection.text =
      fmt::format("{}  {} in Hugging Face's form · {} parameters\n\n{}", folder.string(),
                  model->family(), with_commas(params.num_parameters()), table.text());
  inspection.facts = {
      {"family", model->family()}, {"parameters", params.num_parameters()}, {"config", config}};
  return inspection;
}

}  // namespace outstep::apps
