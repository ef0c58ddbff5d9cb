#include "outstep/train/tables.h"

#include "outstep/base/errors.h"
#include "outstep/engine/backprop.h"
#include "outstep/method/layout.h"
#include "outstep/optim/optimizers.h"
#include "outstep/sync/acco.h"
#include "outstep/sync/ddp.h"
#include "outstep/sync/delayed.h"
#include "outstep/sync/none.h"
#include "outstep/sync/zero1.h"

namespace outstep::train {
namespace {

// The value of `name` in a section: one of the table's names. Other values are refused with the
// list and the nearest spelling.
std::string read_name(io::Section& section, const std::vector<std::string>& names,
                      const std::string& otherwise) {
  return section.text("name", otherwise, {.choices = names});
}

}  // namespace

std::vector<std::string> engine_names() { return {"backprop"}; }
std::vector<std::string> sync_names() { return {"none", "ddp", "zero1", "dpu", "wp", "acco"}; }
std::vector<std::string> ensemble_names() { return {"none"}; }
std::vector<std::string> optimizer_names() { return optim::optimizer_names(); }

std::unique_ptr<method::GradientEngine> make_engine(Recipe& recipe, Assembly& assembly,
                                                    trace::Tracer* tracer) {
  io::Section section = recipe.settings.section("engine");
  read_name(section, engine_names(), "backprop");
  engine::BackpropOptions options = engine::BackpropOptions::read(section);
  options.seed = recipe.train.seed;
  options.tracer = tracer;
  return std::make_unique<engine::BackpropEngine>(*assembly.model, *assembly.params,
                                                  *assembly.stream, options);
}

std::unique_ptr<optim::Optimizer> make_optimizer(Recipe& recipe, const Assembly& assembly) {
  io::Section section = recipe.settings.section("optimizer");
  return optim::make_optimizer(section, method::decay_segments(*assembly.params));
}

std::unique_ptr<method::Synchronizer> make_synchronizer(Recipe& recipe, Assembly& assembly) {
  io::Section section = recipe.settings.section("sync");
  const int replicas = assembly.mesh.replicas;
  const int rank = assembly.mesh.rank_of(assembly.place);  // of the world
  const std::string name = read_name(section, sync_names(), replicas > 1 ? "ddp" : "none");
  if (name == "none" && replicas > 1) {
    throw ConfigError(
        "{}: sync \"none\" is for one replica, and mesh.replicas is {}; use sync \"ddp\" or "
        "\"zero1\", or mesh.replicas = 1. A run can go on with another sync: --sync.name=ddp",
        section.origin("name"), replicas);
  }
  const sync::Parts parts{.params = *assembly.params,
                          .group = *assembly.replica_group,
                          .optimizer = *assembly.optimizer};
  if (name == "ddp") return std::make_unique<sync::Ddp>(parts, sync::DdpOptions::read(section));
  if (name == "zero1") {
    return std::make_unique<sync::Zero1>(parts, sync::Zero1Options::read(section));
  }
  if (name == "dpu" || name == "wp") {
    const auto next =
        name == "dpu" ? sync::NextGradient::at_old_parameters : sync::NextGradient::at_prediction;
    auto options = sync::OverlappedOptions::read(section);
    options.read_record(rank, assembly.mesh.size(), 1);
    return std::make_unique<sync::Delayed>(parts, next, std::move(options));
  }
  if (name == "acco") {
    auto options = sync::AccoOptions::read(section, recipe.train.accumulation);
    options.overlapped.read_record(rank, assembly.mesh.size(), 2);
    return std::make_unique<sync::Acco>(parts, std::move(options));
  }
  return std::make_unique<sync::None>(parts, sync::NoneOptions::read(section));
}

std::unique_ptr<method::Mixer> make_mixer(Recipe& recipe, Assembly& /*assembly*/) {
  io::Section section = recipe.settings.section("ensemble");
  read_name(section, ensemble_names(), "none");
  return nullptr;
}

}  // namespace outstep::train
